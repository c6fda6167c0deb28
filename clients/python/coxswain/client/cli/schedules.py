"""Commands about schedules, which start executions at fixed times: schedule."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.schedule_view import moment, schedule_details, schedule_table
from coxswain.client.cli.session import JsonOption, Session, confirm, session_of
from coxswain.client.later import errors, execution_pb2, field_mask_pb2, results, schedule_pb2, values
from coxswain.client.paging import pages

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

app = typer.Typer(cls=ListingGroup, help="Start crews at fixed times.")

ScheduleArgument = Annotated[str, typer.Argument(metavar="SCHEDULE", help="The schedule's name or id.")]

_CRON = typer.Option(
    "--cron",
    help='Minute, hour, day of month, month, day of week: "30 6 * * mon-fri". Lists, ranges, steps and L are allowed.',
)
_TIME_ZONE = typer.Option(
    "--time-zone", help="IANA name of the time zone of the cron fields, for example Europe/Zurich."
)
_CREW = typer.Option("--crew", help="Name or id of a stored crew.")
_CREW_REVISION = typer.Option(
    "--crew-revision", min=0, help="A revision of the crew; 0 means the newest one each time."
)
_MODEL = typer.Option("--model", help="Model to use instead of the crew's own.")
_PRIORITY = typer.Option("--priority", min=0, max=1000, help="Lower runs first.")


def schedule_id(client: Client, reference: str) -> str:
    """The id of a schedule given by id, also of a deleted one, or by name. Raises NotFound for an unknown name."""
    return results.id_of(reference) or _find(client, reference).id


def _find(client: Client, reference: str) -> schedule_pb2.Schedule:
    """A schedule by id or by name. Raises NotFound."""
    known = results.id_of(reference)
    request = schedule_pb2.GetScheduleRequest(id=known) if known else schedule_pb2.GetScheduleRequest(name=reference)
    return client.schedules.GetSchedule(request).schedule


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A name for it, unique in the group.")],
    cron: Annotated[str, _CRON],
    crew: Annotated[str, _CREW],
    time_zone: Annotated[str, _TIME_ZONE] = "UTC",
    crew_revision: Annotated[int, _CREW_REVISION] = 0,
    given: InputsOption = None,
    labels: LabelsOption = None,
    model: Annotated[str, _MODEL] = "",
    priority: Annotated[int, _PRIORITY] = 0,
    limit: Annotated[float | None, typer.Option("--within", min=0.001, help="Seconds an execution may take.")] = None,
    key: KeyOption = "",
    overlap: OverlapOption = None,
    max_cost: MaxCostOption = None,
    max_tokens: MaxTokensOption = None,
    max_model_calls: MaxModelCallsOption = None,
    max_tool_calls: MaxToolCallsOption = None,
    paused: Annotated[bool, typer.Option("--paused", help="Create it paused.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a schedule that starts a crew at fixed times.

    Its executions act as the group, as long as you are a member: when it fires, there is no user whose token it could
    use. Files are read now. A warning on standard error names inputs that no text of the crew uses.

    Example: `coxswain schedule create morning --cron "30 6 * * mon-fri" --time-zone Europe/Zurich --crew brief -i
    text=@report.txt`
    """
    session = session_of(context, as_json)
    inputs, marked = inputs_from(session, given), labels_from(labels)
    with session.client() as client:
        crew_id = client.get_crew(crew).id
        start = results.start_request(
            crew_id,
            inputs,
            model=model,
            priority=priority,
            timeout=limit,
            labels=marked,
            concurrency_key=key,
            overlap_policy=overlap_from(overlap),
            limits=limits_from(max_cost, max_tokens, max_model_calls, max_tool_calls),
        )
        start.crew_revision = crew_revision
        if inputs:
            _warn(session, client, start)
        schedule = schedule_pb2.Schedule(name=name, cron=cron, time_zone=time_zone, start=start, paused=paused)
        created = client.schedules.CreateSchedule(schedule_pb2.CreateScheduleRequest(schedule=schedule)).schedule
    _report(session, created, f"{created.name} created, id {created.id}")


@app.command()
def fire(
    context: typer.Context,
    schedule: ScheduleArgument,
    request_id: Annotated[str, typer.Option(help="Repeating the command with it starts nothing twice.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Start what a schedule starts, now; its times stay as they are.

    Example: `coxswain schedule fire morning`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = schedule_pb2.FireScheduleRequest(id=_find(client, schedule).id, request_id=request_id)
        execution = client.schedules.FireSchedule(request).execution
    if session.json:
        return session.print_json(execution)
    session.show(execution.id)
    session.say(f"follow it with: coxswain watch {execution.id}")
    return None


@app.command("list")
def list_schedules(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the schedules of the group by name. Times are in the time zone of each schedule.

    Example: `coxswain schedule list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = list(
            pages(client.schedules.ListSchedules, schedule_pb2.ListSchedulesRequest(page_size=1000), "schedules")
        )
    if session.json:
        return session.print_json(found)
    session.out.print(schedule_table(found) if found else "no schedules")
    return None


@app.command()
def get(context: typer.Context, schedule: ScheduleArgument, as_json: JsonOption = False) -> None:
    """Show a schedule, what it starts and its last error. Long inputs are shortened; --json has all.

    Example: `coxswain schedule get morning`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = _find(client, schedule)
        if session.json:
            return session.print_json(found)
        try:
            crew_name = client.get_crew(found.start.crew_id or found.start.crew_name).spec.name
        except errors.NotFound:
            crew_name = ""
    session.out.print(schedule_details(found, crew_name))
    return None


@app.command()
def update(
    context: typer.Context,
    schedule: ScheduleArgument,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    cron: Annotated[str | None, _CRON] = None,
    time_zone: Annotated[str | None, _TIME_ZONE] = None,
    crew: Annotated[
        str | None, typer.Option(help="Name or id of another crew; its newest revision without --crew-revision.")
    ] = None,
    crew_revision: Annotated[int | None, _CREW_REVISION] = None,
    given: InputsOption = None,
    dropped_inputs: Annotated[
        list[str] | None, typer.Option("--drop-input", help="Name of an input to remove; repeatable.")
    ] = None,
    labels: LabelsOption = None,
    dropped_labels: Annotated[
        list[str] | None, typer.Option("--drop-label", help="Key of a label to remove; repeatable.")
    ] = None,
    model: Annotated[str | None, _MODEL] = None,
    priority: Annotated[int | None, _PRIORITY] = None,
    concurrency_key: Annotated[str | None, typer.Option("--key", help="Another key; empty for none.")] = None,
    overlap: OverlapOption = None,
    limit: Annotated[
        float | None, typer.Option("--within", min=0, help="Seconds an execution may take; 0 means no limit.")
    ] = None,
    max_cost: MaxCostOption = None,
    max_tokens: MaxTokensOption = None,
    max_model_calls: MaxModelCallsOption = None,
    max_tool_calls: MaxToolCallsOption = None,
    no_limits: Annotated[
        bool, typer.Option("--no-limits", help="Remove its limits first; those of the crew still count.")
    ] = False,
    paused: Annotated[bool | None, typer.Option("--paused/--no-paused", help="Pause it, or switch it on.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Change a schedule. Only the options you give change; other inputs and labels stay.

    From then on its executions act as the group, as long as you are a member.

    Example: `coxswain schedule update morning --cron "0 7 * * mon-fri" -i text=@report.txt`
    """
    session = session_of(context, as_json)
    inputs, marked = inputs_from(session, given), labels_from(labels)
    timing = {"name": name, "cron": cron, "time_zone": time_zone, "paused": paused}
    starting = {
        "crew_revision": crew_revision,
        "model": model,
        "priority": priority,
        "concurrency_key": concurrency_key,
        "overlap_policy": None if overlap is None else overlap_from(overlap),
    }
    limits = limits_from(max_cost, max_tokens, max_model_calls, max_tool_calls)
    others = (inputs, dropped_inputs, marked, dropped_labels, limits, no_limits)
    if all(value is None for value in (*timing.values(), *starting.values(), crew, limit)) and not any(others):
        raise typer.BadParameter("nothing to change: give at least one option")
    with session.client() as client:
        changed = _find(client, schedule)
        start = changed.start
        if crew is not None and (crew_id := client.get_crew(crew).id) != start.crew_id:
            # A revision of the former crew means nothing for this one.
            start.crew_id, start.crew_revision = crew_id, 0
        for message, fields in ((changed, timing), (start, starting)):
            for field, value in fields.items():
                if value is not None:
                    setattr(message, field, value)
        if limit is not None:
            start.ClearField("timeout")
        if limit:
            start.timeout.FromMilliseconds(round(limit * 1000))
        if no_limits:
            start.ClearField("limits")
        if limits is not None:
            start.limits.MergeFrom(limits)
        _drop(start.inputs, dropped_inputs, "input")
        _drop(start.labels, dropped_labels, "label")
        start.labels.update(marked)
        for key, item in inputs.items():
            start.inputs[key].CopyFrom(values.to_value(item, f"inputs.{key}"))
        if inputs or crew is not None or crew_revision is not None:
            _warn(session, client, start)
        updated = client.schedules.UpdateSchedule(
            schedule_pb2.UpdateScheduleRequest(
                id=changed.id, schedule=changed, update_mask=results.EVERY_FIELD, expected_revision=changed.revision
            )
        ).schedule
    _report(session, updated, f"{updated.name} updated")


def _drop(present: MutableMapping[str, Any], names: Iterable[str] | None, what: str) -> None:
    for name in names or []:
        if name not in present:
            raise typer.BadParameter(f"the schedule has no {what} {name!r}", param_hint=f"--drop-{what}")
        del present[name]


@app.command()
def pause(context: typer.Context, schedule: ScheduleArgument, as_json: JsonOption = False) -> None:
    """Pause a schedule; executions it has started continue.

    As after every change, it acts for you from then on.

    Example: `coxswain schedule pause morning`
    """
    _switch(session_of(context, as_json), schedule, paused=True)


@app.command()
def resume(context: typer.Context, schedule: ScheduleArgument, as_json: JsonOption = False) -> None:
    """Switch a schedule on again. Runs missed while it was paused are not caught up.

    From then on its executions act as the group, as long as you are a member.

    Example: `coxswain schedule resume morning`
    """
    _switch(session_of(context, as_json), schedule, paused=False)


def _switch(session: Session, reference: str, *, paused: bool) -> None:
    with session.client() as client:
        found = _find(client, reference)
        request = schedule_pb2.UpdateScheduleRequest(
            id=found.id,
            schedule=schedule_pb2.Schedule(paused=paused),
            update_mask=field_mask_pb2.FieldMask(paths=["paused"]),
        )
        updated = client.schedules.UpdateSchedule(request).schedule
    _report(session, updated, updated.name)


@app.command()
def delete(
    context: typer.Context,
    schedule: ScheduleArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a schedule; executions it has started continue. Asks first.

    Example: `coxswain schedule delete morning`
    """
    session = session_of(context)
    with session.client() as client:
        found = _find(client, schedule)
        confirm(session, f"the schedule {found.name}", "delete", yes=yes)
        client.schedules.DeleteSchedule(schedule_pb2.DeleteScheduleRequest(id=found.id))
    session.show(f"{found.name} deleted")


def _warn(session: Session, client: Client, start: execution_pb2.StartExecutionRequest) -> None:
    request = results.crew_key(start.crew_id or start.crew_name)
    request.revision = start.crew_revision
    warn_of_unused(session, client.crews.GetCrew(request).crew, start.inputs)


def _report(session: Session, schedule: schedule_pb2.Schedule, what: str) -> None:
    if session.json:
        session.print_json(schedule)
    else:
        when = "paused" if schedule.paused else f"fires at {moment(schedule, 'next_fire_time')}"
        session.show(f"{what}: {when}")
