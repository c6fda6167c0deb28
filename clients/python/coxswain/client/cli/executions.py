"""Commands about executions: executions, get, outputs, cancel, renew."""

from __future__ import annotations

from typing import Annotated

import typer

from coxswain.client.cli.inputs import LabelsOption, labels_from
from coxswain.client.cli.limits import limits_text
from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.run import IdArgument
from coxswain.client.cli.schedules import schedule_id
from coxswain.client.cli.session import (
    EXIT_NOT_SUCCEEDED,
    JsonOption,
    add_row,
    session_of,
    styled,
    table,
)
from coxswain.client.cli.spans import moment_before_now
from coxswain.client.later import delegation_pb2, execution_pb2, progress, watching
from coxswain.client.paging import pages

STATES = (
    "queued",
    "running",
    "waiting_for_answer",
    "waiting_for_credential",
    "succeeded",
    "failed",
    "cancelled",
    "waiting_for_model",
)


def executions(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help=f"Only in one of these states: {', '.join(STATES)}.")] = None,
    crew: Annotated[str, typer.Option(help="Only of this crew, by name or id.")] = "",
    schedule: Annotated[str, typer.Option(help="Only what this schedule started, by name or id.")] = "",
    label: LabelsOption = None,
    subject: Annotated[str, typer.Option(help="Only what this subject started, as `coxswain get` shows it.")] = "",
    reason: Annotated[str, typer.Option(help="Only what failed for this reason, for example TASK_FAILED.")] = "",
    since: Annotated[str, typer.Option(help="Only what was started at most so long ago, for example 24h or 7d.")] = "",
    ended_since: Annotated[str, typer.Option(help="Only what has ended, at most so long ago.")] = "",
    resumed_from: Annotated[str, typer.Option(help="Only what continues this execution, by its id.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List executions, newest first.

    Examples:

        coxswain executions --state running --state queued

        coxswain executions --label team=sales --since 24h --reason TASK_FAILED
    """
    session = session_of(context, as_json)
    request = execution_pb2.ListExecutionsRequest(
        page_size=min(limit, 1000),
        states=[_state(name) for name in state or []],
        labels=labels_from(label),
        subject=subject,
        error_reason=reason,
        resumed_from=resumed_from,
    )
    if since:
        request.min_create_time.CopyFrom(moment_before_now(since))
    if ended_since:
        request.min_end_time.CopyFrom(moment_before_now(ended_since, "--ended-since"))
    with session.client() as client:
        if crew:
            request.crew_id = client.get_crew(crew).id
        if schedule:
            request.schedule_id = schedule_id(client, schedule)
        found = list(pages(client.executions.ListExecutions, request, "executions", limit))
    if session.json:
        return session.print_json(found)
    made = Listing("id", "crew", "state", "created", ">seconds", ">tokens", "acts as")
    for execution in found:
        add_row(
            made,
            execution.id,
            f"{execution.crew_name} r{execution.crew_revision}",
            progress.state_words(execution.state),
            When(execution.create_time),
            _duration(execution),
            f"{execution.usage.input_tokens + execution.usage.output_tokens:,}",
            _acts_as(execution),
        )
    session.out.print(made)
    return None


def get(context: typer.Context, id: IdArgument, as_json: JsonOption = False) -> None:  # noqa: A002
    """Show the current state of an execution.

    Example: `coxswain get 01a20694-1f86-7c54-8594-1ba930202397 --json`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        execution = client.executions.GetExecution(execution_pb2.GetExecutionRequest(id=id)).execution
    if session.json:
        return session.print_json(execution)
    made = table("", "")
    rows = {
        "id": execution.id,
        "crew": f"{execution.crew_name} revision {execution.crew_revision} ({execution.crew_id})",
        "state": progress.state_words(execution.state),
        "model": execution.model or "the crew's",
        "started by": execution.subject,
        "acts as": _acts_as(execution),
        "on expiry": _on_expiry(execution),
        "schedule": execution.schedule_id,
        "batch": f"{execution.batch_id}, input {execution.batch_index}" if execution.batch_id else "",
        "key": execution.concurrency_key,
        "limits": limits_text(execution.limits),
        "resumed from": execution.resumed_from,
        "from task": execution.forked_from_task,
        "events": execution.last_sequence,
        "claims": execution.claims,
        "seconds": _duration(execution),
        "tokens": f"{execution.usage.input_tokens:,} in, {execution.usage.output_tokens:,} out",
        "asks": ", ".join(execution.open_question_ids),
        "waits for": _waits_for(execution),
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(execution.labels.items())),
        "error": f"{execution.error.message} ({execution.error.reason})" if execution.error.reason else "",
    }
    for name, value in rows.items():
        if value != "":
            add_row(made, name, value)
    session.out.print(made)
    if execution.result.text:
        session.show(f"\n{execution.result.text}")
    return None


def _waits_for(execution: execution_pb2.Execution) -> str:
    wait = execution.model_wait
    again = wait.retry_time.ToDatetime()
    return f"{wait.model} until {again:%H:%M:%S} UTC: {wait.message}" if wait.model else ""


def _acts_as(execution: execution_pb2.Execution) -> str:
    return _words(delegation_pb2.ExecutionIdentity.Name(execution.identity), "EXECUTION_IDENTITY_")


def _on_expiry(execution: execution_pb2.Execution) -> str:
    # The group's identity does not expire.
    if execution.identity == delegation_pb2.ExecutionIdentity.EXECUTION_IDENTITY_GROUP:
        return ""
    return _words(delegation_pb2.OnCredentialExpiry.Name(execution.on_credential_expiry), "ON_CREDENTIAL_EXPIRY_")


def _words(name: str, prefix: str) -> str:
    word = name.removeprefix(prefix)
    return "" if word == "UNSPECIFIED" else word.lower().replace("_", "-")


def outputs(context: typer.Context, id: IdArgument, as_json: JsonOption = False) -> None:  # noqa: A002
    """Show what each task of an execution has produced so far.

    Example: `coxswain outputs 01a20694-1f86-7c54-8594-1ba930202397`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = execution_pb2.GetTaskOutputsRequest(id=id)
        tasks = list(pages(client.executions.GetTaskOutputs, request, "tasks"))
    if session.json:
        return session.print_json(tasks)
    for task in tasks:
        state = execution_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower().replace("_", " ")
        copied = ", copied" if task.copied else ""
        session.out.print(styled(f"{task.task_index + 1}. {task.task_name}: {state}{copied}", "bold"))
        if task.error.reason:
            session.show(f"{task.error.message} ({task.error.reason})")
        if task.output.text:
            session.show(task.output.text)
    return None


def cancel(context: typer.Context, id: IdArgument, as_json: JsonOption = False) -> None:  # noqa: A002
    """Cancel an execution; outputs of finished tasks are kept. It exits with 1 when the execution had ended before.

    Example: `coxswain cancel 01a20694-1f86-7c54-8594-1ba930202397`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        execution = client.executions.CancelExecution(execution_pb2.CancelExecutionRequest(id=id)).execution
    ended_otherwise = (
        execution.state in watching.TERMINAL_STATES
        and execution.state != execution_pb2.ExecutionState.EXECUTION_STATE_CANCELLED
    )
    if session.json:
        session.print_json(execution)
    elif ended_otherwise:
        moment = f"{execution.end_time.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
        session.fail(f"nothing to cancel: the execution ended at {moment}, {progress.state_words(execution.state)}")
    else:
        ended = execution.state in watching.TERMINAL_STATES
        session.show(progress.state_words(execution.state) if ended else "cancellation requested")
    if ended_otherwise:
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


def renew(context: typer.Context, id: IdArgument, as_json: JsonOption = False) -> None:  # noqa: A002
    """Let an execution that you started continue with your current token, after its own has expired.

    Example: `coxswain --token "$FRESH_TOKEN" renew 01a20694-1f86-7c54-8594-1ba930202397`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        execution = client.renew(id)
    if session.json:
        return session.print_json(execution)
    session.show(f"renewed; the execution is {progress.state_words(execution.state)}")
    return None


def _state(name: str) -> execution_pb2.ExecutionState.ValueType:
    if name.lower() not in STATES:
        raise typer.BadParameter(f"{name!r}: expected one of {', '.join(STATES)}", param_hint="--state")
    return execution_pb2.ExecutionState.Value(f"EXECUTION_STATE_{name.upper()}")


def _duration(execution: execution_pb2.Execution) -> str:
    if not execution.HasField("start_time") or not execution.HasField("end_time"):
        return ""
    return f"{(execution.end_time.ToDatetime() - execution.start_time.ToDatetime()).total_seconds():.1f}"
