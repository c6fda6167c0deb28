"""The command events: what happens in all executions of the group."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC
from typing import Annotated

import typer

from coxswain.client.cli.event_kinds import kind_help, kinds_from
from coxswain.client.cli.event_lines import EventLines
from coxswain.client.cli.inputs import LabelsOption, labels_from
from coxswain.client.cli.outages import Outages
from coxswain.client.cli.schedules import schedule_id
from coxswain.client.cli.session import EXIT_INTERRUPTED, JsonOption, one_line, session_of
from coxswain.client.later import execution_pb2


def events(
    context: typer.Context,
    crew: Annotated[str, typer.Option(help="Only of this crew, by name or id.")] = "",
    schedule: Annotated[str, typer.Option(help="Only of what this schedule started, by name or id.")] = "",
    label: LabelsOption = None,
    kind: Annotated[list[str] | None, typer.Option(help=kind_help("Only these kinds"))] = None,
    after: Annotated[str, typer.Option(help="Continue after this position, as in the lines of --json.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Follow what happens in all executions of your group, from now on. Reconnects after a lost connection.

    Examples:

        coxswain events --label team=sales --kind execution_failed --kind execution_succeeded

        coxswain events --crew brief --json
    """
    session = session_of(context, as_json)
    labels, kinds = labels_from(label), kinds_from(kind, "--kind")
    lines, outages = EventLines(whole=session.wide), Outages(session.err)
    with session.client() as client:
        watching = client.watch_executions(
            after,
            crew_id=client.get_crew(crew).id if crew else "",
            schedule_id=schedule_id(client, schedule) if schedule else "",
            labels=labels,
            kinds=kinds,
            on_outage=outages.lost,
            on_return=outages.back,
        )
        try:
            with closing(watching) as responses:
                for response in responses:
                    if session.json:
                        session.print_json(response)
                    elif response.HasField("event"):
                        session.show(_line(response, lines))
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None


def _line(response: execution_pb2.WatchExecutionsResponse, lines: EventLines) -> str:
    event = response.event
    time = event.time.ToDatetime(tzinfo=UTC)
    of_execution = f"{event.execution_id} {response.crew_name}: " if event.execution_id else ""
    return one_line(f"{time:%H:%M:%S} {of_execution}{lines.line(event)}")
