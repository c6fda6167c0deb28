"""Commands about webhooks, addresses to which events of the group are posted: webhooks."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import typer

from coxswain.client.cli.event_kinds import kind_help, kind_name, kinds_from
from coxswain.client.cli.inputs import LabelsOption, labels_from
from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.schedules import schedule_id
from coxswain.client.cli.session import JsonOption, add_row, confirm, session_of, table
from coxswain.client.cli.spans import span_from
from coxswain.client.later import duration_pb2, field_mask_pb2, webhook_pb2
from coxswain.client.paging import pages

app = typer.Typer(cls=ListingGroup, help="List the addresses that events are posted to; create, change, retry.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The webhook's id.")]
KindsOption = Annotated[list[str] | None, typer.Option("--kind", help=kind_help("Only these kinds"))]
_STATE = "WEBHOOK_DELIVERY_STATE_"


class State(StrEnum):
    """How far deliveries have come."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@app.command("list")
def list_webhooks(
    context: typer.Context,
    execution: Annotated[str, typer.Option(help="Those of this execution alone, in place of the group's.")] = "",
    single_executions: Annotated[
        bool, typer.Option("--single-executions", help="Those of all single executions and A2A tasks instead.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the webhooks of the group, oldest first, without their keys (editors).

    Example: `coxswain webhooks list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = webhook_pb2.ListWebhooksRequest(
            page_size=1000, execution_id=execution, single_executions=single_executions
        )
        found = list(pages(client.webhooks.ListWebhooks, request, "webhooks"))
    if session.json:
        return session.print_json(found)
    made = Listing("id", "state", "url", "kinds", "description")
    for webhook in found:
        add_row(made, webhook.id, _state(webhook), webhook.url, _kinds(webhook), webhook.description)
    return session.out.print(made if found else "no webhooks")


@app.command()
def create(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Where events are posted.")],
    kind: KindsOption = None,
    crew: Annotated[str, typer.Option(help="Only of this crew, by name or id.")] = "",
    schedule: Annotated[str, typer.Option(help="Only of what this schedule started, by name or id.")] = "",
    label: LabelsOption = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    paused: Annotated[bool, typer.Option("--paused", help="Create it switched off.")] = False,
    request_id: Annotated[str, typer.Option(help="Repeating the command with it makes no second one.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Have events posted to an address, and print the key that signs them (admins). It cannot be shown again.

    Example: `coxswain webhooks create https://example.com/hooks/coxswain --kind execution_failed --label team=sales`
    """
    session = session_of(context, as_json)
    labels, kinds = labels_from(label), kinds_from(kind, "--kind")
    with session.client() as client:
        webhook = webhook_pb2.Webhook(
            url=url,
            description=description,
            crew_id=client.get_crew(crew).id if crew else "",
            schedule_id=schedule_id(client, schedule) if schedule else "",
            labels=labels,
            kinds=kinds,
            paused=paused,
        )
        made = client.webhooks.CreateWebhook(webhook_pb2.CreateWebhookRequest(webhook=webhook, request_id=request_id))
    if session.json:
        return session.print_json(made)
    session.show(made.signing_key)
    return session.say(f"webhook {made.webhook.id} created; its key cannot be shown again")


@app.command()
def show(context: typer.Context, id: IdArgument, as_json: JsonOption = False) -> None:  # noqa: A002 - what people see
    """Show a webhook, without its key (editors).

    Example: `coxswain webhooks show 01a20694-1f86-7c54-8594-1ba930202397`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.webhooks.GetWebhook(webhook_pb2.GetWebhookRequest(id=id)).webhook
    if session.json:
        return session.print_json(found)
    made = table("", "")
    for name, value in {
        "id": found.id,
        "url": found.url,
        "state": _state(found),
        "description": found.description,
        "kinds": _kinds(found),
        "crew": found.crew_id,
        "schedule": found.schedule_id,
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(found.labels.items())),
        "execution": found.execution_id,
        "task of A2A": found.task_id,
        "changed by": found.subject,
        "created": When(found.create_time),
        "changed": When(found.update_time),
        "revision": found.revision,
    }.items():
        if value != "":
            add_row(made, name, value)
    return session.out.print(made)


@app.command()
def update(
    context: typer.Context,
    id: IdArgument,  # noqa: A002 - what people see
    url: Annotated[str | None, typer.Option(help="Another address; the key stays.")] = None,
    kind: KindsOption = None,
    all_kinds: Annotated[bool, typer.Option("--all-kinds", help="Post events of all kinds.")] = False,
    label: LabelsOption = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    paused: Annotated[bool | None, typer.Option("--paused/--no-paused", help="Switch it off, or on again.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Change a webhook (admins). Only the options you give change; labels are replaced by those you give.

    Example: `coxswain webhooks update 01a20694-1f86-7c54-8594-1ba930202397 --no-paused`
    """
    session = session_of(context, as_json)
    labels, kinds = labels_from(label), kinds_from(kind, "--kind")
    changed = webhook_pb2.Webhook(
        url=url or "", description=description or "", labels=labels, kinds=kinds, paused=paused or False
    )
    given = {
        "url": url is not None,
        "description": description is not None,
        "labels": bool(labels),
        "kinds": bool(kinds) or all_kinds,
        "paused": paused is not None,
    }
    mask = field_mask_pb2.FieldMask(paths=[name for name, is_given in given.items() if is_given])
    if not mask.paths:
        raise typer.BadParameter("nothing to change: give at least one option")
    with session.client() as client:
        found = client.webhooks.UpdateWebhook(
            webhook_pb2.UpdateWebhookRequest(id=id, webhook=changed, update_mask=mask)
        ).webhook
    return session.print_json(found) if session.json else session.show(f"{id} changed")


@app.command()
def rotate(
    context: typer.Context,
    id: IdArgument,  # noqa: A002 - what people see
    former: Annotated[
        str, typer.Option("--keep-former", help="For how long the former key signs as well, such as 2h, 7d or 0h.")
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Give a webhook another key and print it (admins). For a while deliveries carry both signatures.

    Example: `coxswain webhooks rotate 01a20694-1f86-7c54-8594-1ba930202397 --keep-former 2h`
    """
    lifetime = duration_pb2.Duration()
    lifetime.FromTimedelta(span_from(former, "--keep-former"))
    session = session_of(context, as_json)
    with session.client() as client:
        request = webhook_pb2.RotateWebhookSigningKeyRequest(id=id, former_key_lifetime=lifetime)
        made = client.webhooks.RotateWebhookSigningKey(request)
    if session.json:
        return session.print_json(made)
    session.show(made.signing_key)
    return session.say("the key cannot be shown again")


@app.command()
def delete(
    context: typer.Context,
    id: IdArgument,  # noqa: A002 - what people see
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a webhook with its deliveries, also those that wait (admins).

    Example: `coxswain webhooks delete 01a20694-1f86-7c54-8594-1ba930202397 --yes`
    """
    session = session_of(context, as_json)
    confirm(session, f"the webhook {id} with its deliveries", "delete", yes=yes)
    with session.client() as client:
        response = client.webhooks.DeleteWebhook(webhook_pb2.DeleteWebhookRequest(id=id))
    if session.json:
        return session.print_json(response)
    return session.show(f"{id} deleted" if response.deleted else f"there was no webhook {id}")


@app.command()
def deliveries(
    context: typer.Context,
    id: IdArgument,  # noqa: A002 - what people see
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    execution: Annotated[str, typer.Option(help="Only those of this execution.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many of the newest.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List what was and is to be posted to a webhook, newest first (editors).

    Example: `coxswain webhooks deliveries 01a20694-1f86-7c54-8594-1ba930202397 --state failed`
    """
    session = session_of(context, as_json)
    request = webhook_pb2.ListWebhookDeliveriesRequest(webhook_id=id, execution_id=execution, page_size=limit)
    if state is not None:
        request.state = webhook_pb2.WebhookDeliveryState.Value(f"{_STATE}{state.name}")
    with session.client() as client:
        found = list(client.webhooks.ListWebhookDeliveries(request).deliveries)
    if session.json:
        return session.print_json(found)
    return session.out.print(_deliveries(found) if found else "no deliveries")


@app.command()
def retry(
    context: typer.Context,
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="The delivery's id.")],
    as_json: JsonOption = False,
) -> None:
    """Make a delivery once more, or at once (editors).

    Example: `coxswain webhooks retry 01a20694-1f86-7c54-8594-1ba930202397`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = webhook_pb2.RetryWebhookDeliveryRequest(id=delivery)
        found = client.webhooks.RetryWebhookDelivery(request).delivery
    return session.print_json(found) if session.json else session.show(f"{delivery} is made again")


def _deliveries(found: Iterable[webhook_pb2.WebhookDelivery]) -> Listing:
    made = Listing("id", "state", "kind", ">sequence", ">attempts", ">status", "next", "execution", "error")
    for one in found:
        state = webhook_pb2.WebhookDeliveryState.Name(one.state).removeprefix(_STATE).lower()
        next_time = When(one.next_attempt_time) if one.HasField("next_attempt_time") else ""
        status = one.last_status_code or ""
        add_row(
            made,
            one.id,
            state,
            kind_name(one.kind),
            one.sequence,
            one.attempts,
            status,
            next_time,
            one.execution_id,
            one.last_error,
        )
    return made


def _state(webhook: webhook_pb2.Webhook) -> str:
    return "gone" if webhook.gone else "paused" if webhook.paused else "on"


def _kinds(webhook: webhook_pb2.Webhook) -> str:
    return ", ".join(map(kind_name, webhook.kinds)) or "all"
