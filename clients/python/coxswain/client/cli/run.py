"""Commands that start an execution or follow one: run, watch."""

from __future__ import annotations

from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.apply import apply_document, read
from coxswain.client.cli.event_kinds import kind_help, kinds_from
from coxswain.client.cli.inputs import (
    InputsOption,
    KeyOption,
    LabelsOption,
    OverlapOption,
    inputs_from,
    labels_from,
    overlap_from,
    warn_of_unused,
)
from coxswain.client.cli.limits import (
    MaxCostOption,
    MaxModelCallsOption,
    MaxTokensOption,
    MaxToolCallsOption,
    limits_from,
)
from coxswain.client.cli.outages import Outages
from coxswain.client.cli.session import EXIT_INTERRUPTED, JsonOption, Session, session_of
from coxswain.client.later import crew_pb2, delegation_pb2, execution_pb2, results

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")]
WatchOption = Annotated[
    bool, typer.Option("--watch/--detach", help="Follow the execution until it ends, or only start it.")
]


WebhookKindsOption = Annotated[
    list[str] | None, typer.Option("--webhook-kind", help=kind_help("Post only these kinds"))
]


class ActAs(StrEnum):
    """Whom an execution acts as."""

    USER = "user"
    GROUP = "group"


class OnExpiry(StrEnum):
    """What happens when the token that an execution acts with expires."""

    PARK = "park"
    FAIL = "fail"
    USE_GROUP_IDENTITY = "use-group-identity"


def run(
    context: typer.Context,
    crew: Annotated[str, typer.Argument(help="Name or id of a stored crew; leave it out with --file.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", exists=True, help="Apply this crew file first, then run it.")
    ] = None,
    given: InputsOption = None,
    watching: WatchOption = True,
    model: Annotated[str, typer.Option(help="Model to use instead of the crew's own.")] = "",
    limit: Annotated[float | None, typer.Option("--within", min=0.001, help="Seconds the execution may take.")] = None,
    priority: Annotated[int, typer.Option(min=0, max=1000, help="Lower runs first.")] = 0,
    request_id: Annotated[
        str, typer.Option(help="Id of the request: repeating a command with the same id starts nothing new.")
    ] = "",
    labels: LabelsOption = None,
    key: KeyOption = "",
    overlap: OverlapOption = None,
    max_cost: MaxCostOption = None,
    max_tokens: MaxTokensOption = None,
    max_model_calls: MaxModelCallsOption = None,
    max_tool_calls: MaxToolCallsOption = None,
    identity: Annotated[
        ActAs | None,
        typer.Option(help="Whom it acts as: you or your group. By default you, if you have a token of your own."),
    ] = None,
    on_expiry: Annotated[
        OnExpiry | None,
        typer.Option(
            "--on-credential-expiry",
            help="When your token expires while it runs: wait for `coxswain renew` (the default), fail, or continue as "
            "the group (needs the role editor).",
        ),
    ] = None,
    webhook: Annotated[
        str,
        typer.Option(help="Post the events of the execution to this address, signed with a key that is shown once."),
    ] = "",
    webhook_kinds: WebhookKindsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a crew and print its result.

    Progress goes to standard error, the result to standard output. With --json every event is a line of JSON. A warning
    on standard error names inputs that no text of the crew uses.

    Examples:

        coxswain run brief --input text=@report.txt > brief.md

        coxswain run -f crew.yaml -i topic=lighthouses -i count:=5 --model openai/gpt-4o-mini

        coxswain run brief -i text=@- --detach < report.txt

        coxswain run brief -i text=@report.txt --key customer-4711 --overlap queue

        coxswain run brief -i text=@report.txt --max-cost 0.5 --max-model-calls 20

        coxswain run brief -i text=@report.txt --identity user --on-credential-expiry fail

        coxswain run brief -i text=@report.txt --detach --webhook https://example.com/hook
    """
    session = session_of(context, as_json)
    if bool(crew) == (file is not None):
        raise typer.BadParameter("give either a crew or --file", param_hint="CREW")
    inputs = inputs_from(session, given)
    marked, kinds = labels_from(labels), kinds_from(webhook_kinds, "--webhook-kind")
    if kinds and not webhook:
        raise typer.BadParameter("belongs to --webhook", param_hint="--webhook-kind")
    with session.client() as client:
        reference: crew_pb2.Crew | str = crew
        if file is not None:
            reference = stored = apply_document(client, read(session, file), file).crew
            warn_of_unused(session, stored, inputs)
        elif inputs:
            stored = client.get_crew(crew)
            # Its newest revision still, so that a repeated request stays the same.
            reference = stored.id
            warn_of_unused(session, stored, inputs)
        request = results.start_request(
            reference,
            inputs,
            model=model,
            request_id=request_id,
            priority=priority,
            timeout=limit,
            labels=marked,
            concurrency_key=key,
            overlap_policy=overlap_from(overlap),
            limits=limits_from(max_cost, max_tokens, max_model_calls, max_tool_calls),
            identity=delegation_pb2.ExecutionIdentity.Value(
                f"EXECUTION_IDENTITY_{identity.name if identity else 'UNSPECIFIED'}"
            ),
            on_credential_expiry=delegation_pb2.OnCredentialExpiry.Value(
                f"ON_CREDENTIAL_EXPIRY_{on_expiry.name if on_expiry else 'UNSPECIFIED'}"
            ),
            webhook=execution_pb2.ExecutionWebhook(url=webhook, kinds=kinds) if webhook else None,
        )
        started = client.executions.StartExecution(request)
        execution = started.execution
        if webhook:
            session.say(f"what is posted to {webhook} is signed with the key {started.webhook_signing_key}")
        if watching:
            return follow_execution(session, client, execution.id, 0)
    if session.json:
        return session.print_json(execution)
    session.show(execution.id)
    session.say(f"follow it with: coxswain watch {execution.id}")
    return None


def watch(
    context: typer.Context,
    id: IdArgument,  # noqa: A002 - what people see
    after: Annotated[int, typer.Option(min=0, help="Start after the event of this sequence number.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show the events of an execution until it ends, then its result. Reconnects after a lost connection.

    Example: `coxswain watch 01a20694-1f86-7c54-8594-1ba930202397 --after 120 --json`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        # One that does not exist gets no view.
        client.executions.GetExecution(execution_pb2.GetExecutionRequest(id=id))
        follow_execution(session, client, id, after)


def follow_execution(session: Session, client: Client, execution_id: str, after: int) -> None:
    """Show the events after a sequence until the execution ends, then its result."""
    sequence = after
    from coxswain.client.cli.live import execution_view, follow

    view, outages = execution_view(session.err, execution_id, whole=session.wide), Outages(session.err)
    on_outage = outages.lost if session.json else view.lost
    try:
        with closing(client.watch(execution_id, after, on_outage=on_outage)) as events:
            if session.json:
                for event in events:
                    outages.back()
                    sequence = event.sequence
                    session.print_json(event)
            else:
                try:
                    follow(view, events)
                finally:
                    sequence = max(view.progress.sequence, after)
    except KeyboardInterrupt:
        session.say(f"the execution continues; follow it with: coxswain watch {execution_id} --after {sequence}")
        session.say(f"or end it with: coxswain cancel {execution_id}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    execution = client.executions.GetExecution(execution_pb2.GetExecutionRequest(id=execution_id)).execution
    if execution.state != execution_pb2.ExecutionState.EXECUTION_STATE_SUCCEEDED:
        raise results.ExecutionNotSucceeded(execution)
    if not session.json:
        session.show(execution.result.text)
