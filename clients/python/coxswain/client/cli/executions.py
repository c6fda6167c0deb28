"""Commands about executions: run, watch, executions, get, outputs, cancel, resume, approve, renew."""

import difflib
import json
from collections.abc import Iterable
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from coxswain.auth.v1.auth_service_pb2 import ExecutionIdentity, OnCredentialExpiry
from coxswain.client.blocking import Client
from coxswain.client.cli.crews import apply_document, read
from coxswain.client.cli.live import execution_view, follow
from coxswain.client.cli.session import (
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    JsonOption,
    Session,
    add_row,
    confirm,
    session_of,
    table,
)
from coxswain.client.paging import pages
from coxswain.client.placeholders import inputs_asked_for, unused_inputs
from coxswain.client.progress import state_words
from coxswain.client.results import CrewReference, ExecutionNotSucceeded
from coxswain.client.texts import read_text
from coxswain.client.watching import TERMINAL_STATES, is_terminal
from coxswain.orchestrator.v1.crew_pb2 import Crew
from coxswain.orchestrator.v1.execution_pb2 import Execution, ExecutionEvent, ExecutionState, TaskState
from coxswain.orchestrator.v1.execution_service_pb2 import (
    AnswerApprovalRequest,
    CancelExecutionRequest,
    GetExecutionRequest,
    GetTaskOutputsRequest,
    ListExecutionsRequest,
    ResumeExecutionRequest,
)

MAX_INPUT_BYTES = 16 * 1024 * 1024
_STATES = [name.removeprefix("EXECUTION_STATE_").lower() for name in list(ExecutionState.keys())[1:]]


class ActAs(StrEnum):
    """Whom an execution acts as."""

    USER = "user"
    GROUP = "group"


class OnExpiry(StrEnum):
    """What happens when the token that an execution acts with expires."""

    PARK = "park"
    FAIL = "fail"
    USE_GROUP_IDENTITY = "use-group-identity"


IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (run, watch, executions, get, outputs, cancel, resume, approve, renew):
        app.command()(command)


def run(
    context: typer.Context,
    crew: Annotated[str, typer.Argument(help="Name or id of a stored crew; none with --file.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", exists=True, help="Apply this crew file first, then run it.")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", help="key=text, key=@file (key=@- reads standard input) or key:=json; repeatable."
        ),
    ] = None,
    watching: Annotated[bool, typer.Option("--watch/--detach", help="Follow it to its end, or only start it.")] = True,
    model: Annotated[str, typer.Option(help="Model to use instead of the crew's own.")] = "",
    limit: Annotated[float | None, typer.Option("--within", min=0.001, help="Seconds the execution may take.")] = None,
    priority: Annotated[int, typer.Option(min=0, max=1000, help="Lower runs first.")] = 0,
    request_id: Annotated[str, typer.Option(help="Makes a repeated command the same execution.")] = "",
    labels: Annotated[list[str] | None, typer.Option("--label", help="key=value; repeatable.")] = None,
    identity: Annotated[
        ActAs | None,
        typer.Option(help="Whom it acts as: you, or your group. By default you, if you have a token of your own."),
    ] = None,
    on_expiry: Annotated[
        OnExpiry | None,
        typer.Option(
            "--on-credential-expiry",
            help="When your token expires meanwhile: wait for `coxswain renew` (the default), fail, or go on as the "
            "group (needs the role editor).",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a crew and print its result.

    Progress goes to standard error, the result to standard output. With --json every event is a line of JSON. Inputs
    that no text of the crew uses are warned of, on standard error.

    Examples:

        coxswain run brief --input text=@report.txt > brief.md

        coxswain run -f crew.yaml -i topic=lighthouses -i count:=5 --model openai/gpt-4o-mini

        coxswain run brief -i text=@- --detach < report.txt

        coxswain run brief -i text=@report.txt --identity user --on-credential-expiry fail
    """
    session = session_of(context, as_json)
    if bool(crew) == (file is not None):
        raise typer.BadParameter("name a crew or give --file, one of both", param_hint="CREW")
    inputs = dict(_input(session, text) for text in given or [])
    marked = dict(_label(text) for text in labels or [])
    with session.client() as client:
        reference: CrewReference = crew
        if file is not None:
            reference = stored = apply_document(client, read(session, file), file).crew
            _warn_of_unused(session, stored, inputs)
        elif inputs:
            stored = client.get_crew(crew)
            # Its newest revision still, so that a repeated request stays the same.
            reference = stored.id
            _warn_of_unused(session, stored, inputs)
        execution = client.start(
            reference,
            inputs,
            model=model,
            request_id=request_id,
            priority=priority,
            timeout=limit,
            labels=marked,
            identity=ExecutionIdentity.Value(f"EXECUTION_IDENTITY_{identity.name if identity else 'UNSPECIFIED'}"),
            on_credential_expiry=OnCredentialExpiry.Value(
                f"ON_CREDENTIAL_EXPIRY_{on_expiry.name if on_expiry else 'UNSPECIFIED'}"
            ),
        )
        if watching:
            return _watch(session, client, execution.id, 0)
    if session.json:
        return session.print_json(execution)
    session.show(execution.id)
    session.say(f"follow it with: coxswain watch {execution.id}")
    return None


def watch(
    context: typer.Context,
    id: IdArgument,  # noqa: A002 - what people see
    after: Annotated[int, typer.Option(min=0, help="Begin behind this event.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show an execution's events to its end, then its result; a lost connection is made again.

    Example: `coxswain watch 0198c0de --after 120 --json`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        _watch(session, client, id, after)


def _watch(session: Session, client: Client, execution_id: str, after: int) -> None:
    sequence = after
    try:
        with closing(client.watch(execution_id, after)) as events:
            if session.json:
                for event in events:
                    sequence = event.sequence
                    session.print_json(event)
            else:
                view = execution_view(session.err, execution_id)
                try:
                    follow(view, events)
                finally:
                    sequence = max(view.progress.sequence, after)
    except KeyboardInterrupt:
        session.say(f"the execution goes on; follow it with: coxswain watch {execution_id} --after {sequence}")
        session.say(f"or end it with: coxswain cancel {execution_id}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    execution = client.executions.GetExecution(GetExecutionRequest(id=execution_id)).execution
    if execution.state != ExecutionState.EXECUTION_STATE_SUCCEEDED:
        raise ExecutionNotSucceeded(execution)
    if not session.json:
        session.show(execution.result.text)


def executions(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help=f"Only in one of these states: {', '.join(_STATES)}.")] = None,
    crew: Annotated[str, typer.Option(help="Only of this crew, by name or id.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List executions, newest first.

    Example: `coxswain executions --state running --state queued`
    """
    session = session_of(context, as_json)
    request = ListExecutionsRequest(page_size=min(limit, 1000), states=[_state(name) for name in state or []])
    with session.client() as client:
        if crew:
            request.crew_id = client.get_crew(crew).id
        found = list(pages(client.executions.ListExecutions, request, "executions", limit))
    if session.json:
        return session.print_json(found)
    made = table("id", "crew", "state", "acts as", "started", ">seconds", ">tokens")
    for execution in found:
        add_row(
            made,
            execution.id,
            f"{execution.crew_name} r{execution.crew_revision}",
            state_words(execution.state),
            _acts_as(execution),
            execution.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S"),
            _duration(execution),
            f"{execution.usage.input_tokens + execution.usage.output_tokens:,}",
        )
    session.out.print(made)
    return None


def get(context: typer.Context, id: IdArgument, as_json: JsonOption = False) -> None:  # noqa: A002
    """Show one execution as it stands.

    Example: `coxswain get 0198c0de --json`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        execution = client.executions.GetExecution(GetExecutionRequest(id=id)).execution
    if session.json:
        return session.print_json(execution)
    made = table("", "")
    rows = {
        "id": execution.id,
        "crew": f"{execution.crew_name} revision {execution.crew_revision} ({execution.crew_id})",
        "state": state_words(execution.state),
        "model": execution.model or "the crew's",
        "started by": execution.subject,
        "acts as": _acts_as(execution),
        "on expiry": _on_expiry(execution),
        "resumed from": execution.resumed_from,
        "events": execution.last_sequence,
        "claims": execution.claims,
        "seconds": _duration(execution),
        "tokens": f"{execution.usage.input_tokens:,} in, {execution.usage.output_tokens:,} out",
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


def _acts_as(execution: Execution) -> str:
    return _words(ExecutionIdentity.Name(execution.identity), "EXECUTION_IDENTITY_")


def _on_expiry(execution: Execution) -> str:
    # The group's identity does not expire.
    if execution.identity == ExecutionIdentity.EXECUTION_IDENTITY_GROUP:
        return ""
    return _words(OnCredentialExpiry.Name(execution.on_credential_expiry), "ON_CREDENTIAL_EXPIRY_")


def _words(name: str, prefix: str) -> str:
    word = name.removeprefix(prefix)
    return "" if word == "UNSPECIFIED" else word.lower().replace("_", "-")


def outputs(context: typer.Context, id: IdArgument, as_json: JsonOption = False) -> None:  # noqa: A002
    """Show what each task of an execution has produced so far.

    Example: `coxswain outputs 0198c0de`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = GetTaskOutputsRequest(execution_id=id)
        tasks = list(pages(client.executions.GetTaskOutputs, request, "tasks"))
    if session.json:
        return session.print_json(tasks)
    for task in tasks:
        state = TaskState.Name(task.state).removeprefix("TASK_STATE_").lower().replace("_", " ")
        copied = ", copied" if task.copied else ""
        session.out.print(Text(f"{task.task_index + 1}. {task.task_name}: {state}{copied}", style="bold"))
        if task.error.reason:
            session.show(f"{task.error.message} ({task.error.reason})")
        if task.output.text:
            session.show(task.output.text)
    return None


def cancel(context: typer.Context, id: IdArgument, as_json: JsonOption = False) -> None:  # noqa: A002
    """Ask for an execution's end; outputs of finished tasks are kept.

    Example: `coxswain cancel 0198c0de`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        execution = client.executions.CancelExecution(CancelExecutionRequest(id=id)).execution
    if session.json:
        return session.print_json(execution)
    ended = execution.state in TERMINAL_STATES
    session.show(state_words(execution.state) if ended else "cancellation asked for")
    return None


def resume(
    context: typer.Context,
    id: IdArgument,  # noqa: A002
    watching: Annotated[bool, typer.Option("--watch/--detach", help="Follow it to its end, or only start it.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Start a new execution from one that failed or was cancelled; finished tasks are not run again.

    Example: `coxswain resume 0198c0de`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        execution = client.executions.ResumeExecution(ResumeExecutionRequest(id=id)).execution
        if watching:
            return _watch(session, client, execution.id, 0)
    if session.json:
        return session.print_json(execution)
    session.show(execution.id)
    return None


def approve(
    context: typer.Context,
    id: IdArgument,  # noqa: A002
    reject: Annotated[bool, typer.Option("--reject", help="Refuse the result: the task starts again.")] = False,
    feedback: Annotated[str, typer.Option(help="What to do better.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Approve the result an execution waits with, or refuse it. Shows the result and asks before it is approved.

    Examples:

        coxswain approve 0198c0de

        coxswain approve 0198c0de --reject --feedback "name the sources"
    """
    session = session_of(context, as_json)
    with session.client() as client:
        pending = _pending_approval(client, id)
        if pending is None:
            session.say(f"execution {id} waits for no approval", "red")
            raise typer.Exit(EXIT_USAGE)
        request = pending.approval_requested
        if not yes and not reject:
            session.say(f"{pending.task_name}:\n{request.output.text}\n")
            confirm(session, f"this result of {pending.task_name}", "approve", yes=yes)
        answer = AnswerApprovalRequest(approval_id=request.approval_id, approved=not reject, feedback=feedback)
        execution = client.executions.AnswerApproval(answer).execution
    if session.json:
        return session.print_json(execution)
    session.show(f"{'refused' if reject else 'approved'}; the execution is {state_words(execution.state)}")
    return None


def renew(context: typer.Context, id: IdArgument, as_json: JsonOption = False) -> None:  # noqa: A002
    """Let an execution that you started go on with your present token, after the one it had has expired.

    Example: `coxswain --token "$FRESH_TOKEN" renew 0198c0de`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        execution = client.renew(id)
    if session.json:
        return session.print_json(execution)
    session.show(f"renewed; the execution is {state_words(execution.state)}")
    return None


def _pending_approval(client: Client, execution_id: str) -> ExecutionEvent | None:
    """The last approval that was asked for and not answered."""
    execution = client.executions.GetExecution(GetExecutionRequest(id=execution_id)).execution
    if execution.state != ExecutionState.EXECUTION_STATE_WAITING_FOR_APPROVAL:
        return None
    pending: dict[str, ExecutionEvent] = {}
    with closing(client.watch(execution_id, exclude_chunks=True)) as events:
        for event in _up_to(events, execution.last_sequence):
            if event.HasField("approval_requested"):
                pending[event.approval_requested.approval_id] = event
            elif event.HasField("approval_answered"):
                pending.pop(event.approval_answered.approval_id, None)
    return next(reversed(pending.values()), None)


def _up_to(events: Iterable[ExecutionEvent], sequence: int) -> Iterable[ExecutionEvent]:
    for event in events:
        yield event
        if event.sequence >= sequence or is_terminal(event):
            return


def _input(session: Session, text: str) -> tuple[str, object]:
    """``key=text``, ``key=@file`` or ``key:=json``."""
    key, equals, value = text.partition("=")
    if not equals or not key.rstrip(":"):
        raise typer.BadParameter(f"{text!r}: expected key=text, key=@file or key:=json", param_hint="--input")
    if key.endswith(":"):
        try:
            return key[:-1], json.loads(value)
        except ValueError as error:
            raise typer.BadParameter(f"{key[:-1]}: not JSON: {error}", param_hint="--input") from error
    if value.startswith("@@"):
        return key, value[1:]
    if not value.startswith("@"):
        return key, value
    file = read_text(value[1:], MAX_INPUT_BYTES)
    if not file.encoding.startswith("utf-8"):
        session.say(f"{value[1:]}: read as {file.encoding}", "yellow")
    return key, file.text


def _warn_of_unused(session: Session, crew: Crew, inputs: Iterable[str]) -> None:
    asked_for = inputs_asked_for(crew.spec)
    for name in unused_inputs(crew.spec, inputs):
        near = difflib.get_close_matches(name, asked_for, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        session.say(f"warning: no text of {crew.spec.name} uses the input {name!r}{hint}", "yellow")


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text!r}: expected key=value", param_hint="--label")
    return key, value


def _state(name: str) -> ExecutionState.ValueType:
    if name.lower() not in _STATES:
        raise typer.BadParameter(f"{name!r}: expected one of {', '.join(_STATES)}", param_hint="--state")
    return ExecutionState.Value(f"EXECUTION_STATE_{name.upper()}")


def _duration(execution: Execution) -> str:
    if not execution.HasField("start_time") or not execution.HasField("end_time"):
        return ""
    return f"{(execution.end_time.ToDatetime() - execution.start_time.ToDatetime()).total_seconds():.1f}"
