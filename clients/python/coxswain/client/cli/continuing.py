"""Commands about executions that continue others: resume, fork, compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.inputs import InputsOption, LabelsOption, inputs_from, labels_from
from coxswain.client.cli.limits import (
    MaxCostOption,
    MaxModelCallsOption,
    MaxTokensOption,
    MaxToolCallsOption,
    limits_from,
)
from coxswain.client.cli.run import IdArgument, WatchOption, follow_execution
from coxswain.client.cli.session import JsonOption, Session, add_row, one_line, session_of, styled, table
from coxswain.client.later import execution_pb2, progress

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

_SHOWN_CHARACTERS = 60

ModelOption = Annotated[
    str | None, typer.Option(help='Model for what runs from now on; "" means the crew\'s own. By default as before.')
]
RevisionOption = Annotated[
    int | None, typer.Option(min=0, help="Revision of the crew; 0 means the newest. By default as before.")
]
FromOption = Annotated[
    str, typer.Option("--from", metavar="TASK", help="Run this task again, and all that gets its result.")
]
LimitOption = Annotated[
    float | None, typer.Option("--within", min=0.001, help="Seconds the new execution may take. By default as before.")
]
RequestIdOption = Annotated[
    str, typer.Option(help="Id of the request: repeating a command with the same id starts nothing new.")
]


def resume(
    context: typer.Context,
    id: IdArgument,  # noqa: A002 - what people see
    model: ModelOption = None,
    revision: RevisionOption = None,
    given: InputsOption = None,
    from_task: FromOption = "",
    labels: LabelsOption = None,
    limit: LimitOption = None,
    max_cost: MaxCostOption = None,
    max_tokens: MaxTokensOption = None,
    max_model_calls: MaxModelCallsOption = None,
    max_tool_calls: MaxToolCallsOption = None,
    request_id: RequestIdOption = "",
    watching: WatchOption = True,
    as_json: JsonOption = False,
) -> None:
    """Start a new execution from one that failed or was cancelled; finished tasks do not run again.

    A task that a model call ended goes on at that call. Inputs and labels add to those it had. A finished task runs
    again when its definition in another revision, or an input that it names, is another one. Limits replace those the
    old execution was started with; what it has used counts against them.

    Examples:

        coxswain resume 01a20694-1f86-7c54-8594-1ba930202397

        coxswain resume 01a20694-1f86-7c54-8594-1ba930202397 --model openai/gpt-4o-mini --max-cost 2
    """
    session = session_of(context, as_json)
    with session.client() as client:
        execution = client.resume(
            id,
            inputs_from(session, given),
            crew_revision=revision,
            model=model,
            from_task=from_task,
            labels=labels_from(labels),
            timeout=limit,
            limits=limits_from(max_cost, max_tokens, max_model_calls, max_tool_calls),
            request_id=request_id,
        )
        _show_started(session, client, execution, watching=watching)


def fork(
    context: typer.Context,
    id: IdArgument,  # noqa: A002
    model: ModelOption = None,
    revision: RevisionOption = None,
    given: InputsOption = None,
    from_task: FromOption = "",
    labels: LabelsOption = None,
    limit: LimitOption = None,
    max_cost: MaxCostOption = None,
    max_tokens: MaxTokensOption = None,
    max_model_calls: MaxModelCallsOption = None,
    max_tool_calls: MaxToolCallsOption = None,
    request_id: RequestIdOption = "",
    watching: WatchOption = True,
    as_json: JsonOption = False,
) -> None:
    """Run another course of an execution that has ended, also of one that succeeded.

    Results that no change concerns are copied. Another model is for the task of --from and what depends on it; without
    --from all tasks run on it. Limits replace those the old execution was started with and count from zero.

    Examples:

        coxswain fork 01a20694-1f86-7c54-8594-1ba930202397 --from edit --model openai/gpt-4o-mini

        coxswain fork 01a20694-1f86-7c54-8594-1ba930202397 --revision 0 -i topic=lighthouses
    """
    session = session_of(context, as_json)
    with session.client() as client:
        execution = client.fork(
            id,
            inputs_from(session, given),
            crew_revision=revision,
            model=model,
            from_task=from_task,
            labels=labels_from(labels),
            timeout=limit,
            limits=limits_from(max_cost, max_tokens, max_model_calls, max_tool_calls),
            request_id=request_id,
        )
        _show_started(session, client, execution, watching=watching)


def _show_started(session: Session, client: Client, execution: execution_pb2.Execution, *, watching: bool) -> None:
    if watching:
        follow_execution(session, client, execution.id, 0)
    elif session.json:
        session.print_json(execution)
    else:
        session.show(execution.id)


def compare(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID ID...", help="Two to sixteen executions.")],
    characters: Annotated[
        int, typer.Option(min=0, max=16384, help="Most characters of each result; 0 means 60, and 2,000 with --json.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show executions side by side: what they were given, and the result and the cost of each task.

    Example: `coxswain compare 01a20694-1f86-7c54-8594-1ba930202397 01a20694-5b1c-7a02-9d3e-4c1f0a9b8d77`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        shown = characters if characters or session.json else _SHOWN_CHARACTERS
        compared = client.compare(ids, max_text_characters=shown)
    if session.json:
        return session.print_json(compared)
    return show_comparison(session, compared)


def show_comparison(session: Session, compared: execution_pb2.CompareExecutionsResponse) -> None:
    """Show executions side by side on standard output."""
    _show_executions(session, compared)
    for task in compared.tasks:
        _show_task(session, task)


def _show_executions(session: Session, compared: execution_pb2.CompareExecutionsResponse) -> None:
    made = table(">#", "id", "crew", "model", "state")
    for number, execution in enumerate(compared.executions, start=1):
        crew = f"{execution.crew_name} r{execution.crew_revision}"
        add_row(
            made, number, execution.id, crew, execution.model or "the crew's", progress.state_words(execution.state)
        )
    session.out.print(made)
    for given in compared.inputs:
        session.out.print(styled(f"\ninput {given.name}", "bold"))
        values = table(">#", "value")
        for number, value in enumerate(given.values, start=1):
            add_row(values, number, _text(value.value_json, cut=value.cut))
        session.out.print(values)
    if compared.differing_fields:
        session.show(f"\ndifferent: {', '.join(compared.differing_fields)}")


def _show_task(session: Session, task: execution_pb2.TaskComparison) -> None:
    said = [words for words, holds in _SAMENESS if holds(task)]
    session.out.print(styled(f"\n{task.task_name}{': ' if said else ''}{', '.join(said)}", "bold"))
    made = table(">#", ">calls", ">tokens", ">cost", ">seconds", "result")
    for number, result in enumerate(task.results, start=1):
        add_row(made, number, *_figures(result), _outcome(result))
    session.out.print(made)


_SAMENESS: Sequence[tuple[str, Callable[[execution_pb2.TaskComparison], bool]]] = (
    ("same result", lambda task: task.same_output),
    ("other definition or inputs", lambda task: not task.same_definition),
)


def _figures(result: execution_pb2.ComparedTask) -> tuple[str, str, str, str]:
    task = result.task
    if not result.HasField("task") or task.copied:
        return "", "", "", ""
    used = task.usage
    return str(used.llm_calls), f"{used.input_tokens + used.output_tokens:,}", f"{used.cost:.4f}", _seconds(task)


def _seconds(task: execution_pb2.TaskRun) -> str:
    if not task.HasField("start_time") or not task.HasField("end_time"):
        return ""
    return f"{(task.end_time.ToDatetime() - task.start_time.ToDatetime()).total_seconds():.1f}"


def _outcome(result: execution_pb2.ComparedTask) -> str:
    if not result.HasField("task"):
        return "(no such task)"
    task = result.task
    copied = "(copied) " if task.copied else ""
    if task.error.reason:
        return one_line(f"{task.error.message} ({task.error.reason})")
    if task.HasField("output"):
        return copied + _text(task.output.text, cut=result.cut)
    return f"({execution_pb2.TaskState.Name(task.state).removeprefix('TASK_STATE_').lower().replace('_', ' ')})"


def _text(text: str, *, cut: bool) -> str:
    return one_line(text) + ("..." if cut else "")
