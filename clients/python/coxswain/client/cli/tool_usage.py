"""The command about what calls of tools have used: tool usage."""

from __future__ import annotations

from typing import Annotated

import typer

from coxswain.client.cli.listing import Listing
from coxswain.client.cli.session import JsonOption, add_row, session_of
from coxswain.client.cli.spans import moment_before_now
from coxswain.client.cli.sums import (
    CrewOption,
    ExecutionOption,
    LabelsOption,
    RowsOption,
    SinceOption,
    SubjectOption,
    choices_of,
    dollars,
    first_rows,
    group_by,
    keys_of,
    label_pairs,
)
from coxswain.client.later import tool_usage_pb2


def tool_usage(
    context: typer.Context,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            help="tool, source, crew, task, execution, subject, day or label=KEY; repeatable. Default: tool.",
        ),
    ] = None,
    since: SinceOption = "",
    tool: Annotated[str, typer.Option("--tool", help="Only calls of this tool, for example billing/pay.")] = "",
    source: Annotated[str, typer.Option("--source", help="Only calls of this source's tools.")] = "",
    subject: SubjectOption = "",
    crew: CrewOption = "",
    execution: ExecutionOption = "",
    outcome: Annotated[
        str, typer.Option("--outcome", help="Only calls that ended like this: ok, failed, refused, unknown, cancelled.")
    ] = "",
    labels: LabelsOption = None,
    limit: RowsOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Show the calls, time, bytes and cost of the group's tool calls.

    Example: `coxswain tool usage --by source --by day --since 7d`
    """
    session = session_of(context, as_json)
    outcomes = choices_of(tool_usage_pb2.ToolCallOutcome)
    if outcome and outcome not in outcomes:
        raise typer.BadParameter(f"give one of {', '.join(outcomes)}", param_hint="--outcome")
    request = tool_usage_pb2.QueryToolUsageRequest(
        tool=tool,
        source=source,
        subject=subject,
        crew=crew,
        execution_id=execution,
        outcome=outcomes.get(outcome, 0),
        labels=label_pairs(labels),
        page_size=1000,
    )
    names = group_by(request, by or ["tool"], tool_usage_pb2.ToolUsageGrouping)
    if since:
        request.start_time.CopyFrom(moment_before_now(since))
    with session.client() as client:
        rows = first_rows(session, client.tools.QueryToolUsage, request, limit)
    if session.json:
        return session.print_json(rows)
    made = Listing(
        *names, ">calls", ">failed", ">refused", ">unknown", ">cancelled", ">seconds", ">in", ">out", ">cost"
    )
    for row in rows:
        add_row(
            made,
            *keys_of(row, names),
            f"{row.calls:,}",
            f"{row.failed_calls:,}",
            f"{row.refused_calls:,}",
            f"{row.unknown_calls:,}",
            f"{row.cancelled_calls:,}",
            f"{row.duration.ToMilliseconds() / 1000:,.1f}",
            f"{row.argument_bytes:,}",
            f"{row.result_bytes:,}",
            dollars(row.cost),
        )
    session.out.print(made if rows else "no calls")
    return None
