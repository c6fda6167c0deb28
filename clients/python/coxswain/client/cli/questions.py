"""Commands about what executions ask people: questions, answer."""

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.struct_pb2 import Value
from rich.text import Text

from coxswain.client.blocking import Client
from coxswain.client.cli.session import (
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    JsonOption,
    Session,
    confirm,
    harmless,
    one_line,
    session_of,
)
from coxswain.client.paging import pages
from coxswain.client.text_files import read_text
from coxswain.client.values import to_value
from coxswain.orchestrator.v1.question_pb2 import (
    AcceptQuestion,
    AnswerQuestionRequest,
    CancelQuestion,
    DeclineQuestion,
    GetQuestionRequest,
    ListQuestionsRequest,
    Question,
)
from coxswain.orchestrator.v1.question_state_pb2 import OnDeadline, QuestionKind, QuestionState

_OPEN = QuestionState.QUESTION_STATE_OPEN
_MAX_BYTES = 4_000_000
_PREVIEW = 200


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(questions)
    app.command()(answer)


def questions(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Also those that are not open any more.")] = False,
    crew: Annotated[str, typer.Option(help="Only of this crew, by name or id.")] = "",
    execution: Annotated[str, typer.Option(help="Only of this execution, by id.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    watching: Annotated[
        bool, typer.Option("--watch", help="Show all open questions, then each change, until it is interrupted.")
    ] = False,
    after: Annotated[int, typer.Option(min=0, help="With --watch: only what came after this sequence number.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """List what executions of the group ask people, newest first.

    Examples:

        coxswain questions --crew brief

        coxswain questions --watch --json
    """
    session = session_of(context, as_json)
    with session.client() as client:
        if watching:
            if every or crew or execution:
                raise typer.BadParameter("takes none of --all, --crew and --execution", param_hint="--watch")
            return _watch(session, client, after)
        request = ListQuestionsRequest(page_size=min(limit, 1000), execution_id=execution)
        if not every:
            request.states.append(_OPEN)
        if crew:
            request.crew_id = client.get_crew(crew).id
        found = list(pages(client.questions.ListQuestions, request, "questions", limit))
    if session.json:
        return session.print_json(found)
    for question in found:
        _print(session, _summary(question))
    if not found:
        session.say("no questions" if every else "no open questions")
    return None


def answer(
    context: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="The question's id.")],  # noqa: A002
    approve: Annotated[
        bool,
        typer.Option("--approve", help="Accept the result, the call or the form as it is; the address was visited."),
    ] = False,
    refuse: Annotated[
        str | None,
        typer.Option(
            "--refuse",
            metavar="FEEDBACK",
            help="A result: the task runs again with this feedback. A call: the model is told. An unknown outcome: the "
            "task ends.",
        ),
    ] = None,
    edit: Annotated[
        Path | None,
        typer.Option(
            "--edit",
            metavar="FILE",
            help="Accept what is in this file (- for standard input) instead: a result, as JSON where the task has a "
            "schema; the arguments of a call; the fields of a form.",
        ),
    ] = None,
    happened: Annotated[
        str | None,
        typer.Option(
            "--happened", metavar="RESULT", help="A call of unknown outcome has taken effect, with this result."
        ),
    ] = None,
    not_happened: Annotated[
        bool, typer.Option("--not-happened", help="A call of unknown outcome had no effect: it is made again.")
    ] = False,
    remember: Annotated[
        bool, typer.Option("--remember", help="With --approve: also later calls of this tool in the execution.")
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the execution.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer a question. Without an option it shows the question and asks whether to approve.

    Examples:

        coxswain answer 01a20694-1f86-7c54-8594-1ba930202397 --approve

        coxswain answer 01a20694-1f86-7c54-8594-1ba930202397 --refuse "name the sources"

        coxswain answer 01a20694-1f86-7c54-8594-1ba930202397 --edit better.md

        coxswain answer 01a20694-1f86-7c54-8594-1ba930202397 --happened "receipt 4711"
    """
    session = session_of(context, as_json)
    chosen = (approve, refuse is not None, edit is not None, happened is not None, not_happened, cancel)
    if sum(chosen) > 1:
        raise typer.BadParameter(
            "give one of --approve, --refuse, --edit, --happened, --not-happened and --cancel", param_hint="ID"
        )
    if remember and not approve:
        raise typer.BadParameter("goes with --approve", param_hint="--remember")
    request = AnswerQuestionRequest(id=id)
    with session.client() as client:
        if refuse is not None:
            request.decline.CopyFrom(DeclineQuestion(reason=refuse))
        elif cancel:
            request.cancel.CopyFrom(CancelQuestion())
        elif edit is not None:
            request.accept.CopyFrom(AcceptQuestion(content=_edited(client, id, edit)))
        elif happened is not None or not_happened:
            found = {"happened": False} if happened is None else {"happened": True, "result": happened}
            request.accept.CopyFrom(AcceptQuestion(content=to_value(found)))
        else:
            if not approve:
                _ask(session, client, id)
            request.accept.CopyFrom(AcceptQuestion())
            if remember:
                request.accept.content.CopyFrom(to_value({"decision": "call", "remember": True}))
        question = client.questions.AnswerQuestion(request).question
    if session.json:
        return session.print_json(question)
    session.show(f"{_state(question)}: execution {question.execution_id}")
    return None


def _ask(session: Session, client: Client, question_id: str) -> None:
    question = client.questions.GetQuestion(GetQuestionRequest(id=question_id)).question
    if question.state != _OPEN:
        session.say(f"the question is {_state(question)} already", "red")
        raise typer.Exit(EXIT_USAGE)
    session.say(f"{question.crew_name} / {question.task_name}: {question.text}\n\n{_subject(question)}\n")
    if question.kind == QuestionKind.QUESTION_KIND_OUTCOME_UNKNOWN:
        session.say("find out, then say --happened RESULT, --not-happened, --refuse REASON or --cancel", "red")
        raise typer.Exit(EXIT_USAGE)
    if not sys.stdin.isatty():
        session.say("say --approve, --refuse FEEDBACK, --edit FILE or --cancel", "red")
        raise typer.Exit(EXIT_USAGE)
    what = "this result" if question.HasField("result") else f'this call of "{question.call.tool_name}"'
    confirm(session, f"{what} of {question.task_name}", "approve", yes=False)


def _subject(question: Question) -> str:
    """Return what a question is about, in full."""
    call = question.call
    if question.HasField("result"):
        return question.result.text
    lines = [f"{call.tool_name} {call.arguments_json}"]
    lines += [f"{call.agent_role}: {call.agent_text}"] if call.agent_text else []
    lines += [f"seen of it: {call.observation}"] if call.observation else []
    lines += [f"address: {call.url}"] if call.url else []
    return "\n".join(lines)


def _edited(client: Client, question_id: str, file: Path) -> Value:
    text = read_text(file, _MAX_BYTES).text
    question = client.questions.GetQuestion(GetQuestionRequest(id=question_id)).question
    if not question.HasField("schema"):
        return to_value(text)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not valid JSON, which the question's schema asks for: {error}") from error
    if question.kind == QuestionKind.QUESTION_KIND_TOOL_APPROVAL:
        content = {"decision": "call_edited", "arguments": content}
    return to_value(content)


def _watch(session: Session, client: Client, after: int) -> None:
    sequence = after
    try:
        with closing(client.watch_questions(after)) as changes:
            for change in changes:
                sequence = change.sequence
                if session.json:
                    session.print_json(change)
                else:
                    _print(session, _summary(change.question))
    except KeyboardInterrupt:
        session.say(f"continue with: coxswain questions --watch --after {sequence}")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _print(session: Session, lines: Iterator[str]) -> None:
    for line in lines:
        session.out.print(Text(line), soft_wrap=not session.out.is_terminal)


def _summary(question: Question) -> Iterator[str]:
    """A question in lines of which the id is the longest word."""
    yield f"{question.id}  {_state(question)}"
    asked = _moment(question.create_time.ToDatetime(UTC))
    yield f"  {one_line(f'{question.crew_name} / {question.task_name}, {asked}')}"
    subject = one_line(_subject(question))
    yield f"  {one_line(question.text)}"
    yield f"  > {subject[:_PREVIEW]}{'...' if len(subject) > _PREVIEW else ''}"
    if question.state == _OPEN and question.HasField("deadline"):
        then = OnDeadline.Name(question.on_deadline).removeprefix("ON_DEADLINE_").lower().replace("_", " ")
        yield f"  until {_moment(question.deadline.ToDatetime(UTC))}, then {then}"
    if question.answered_by:
        yield harmless(f"  by {question.answered_by}")
    if question.decline_reason:
        yield f"  because: {one_line(question.decline_reason)}"


def _state(question: Question) -> str:
    edited = ", edited" if question.HasField("accepted_content") else ""
    return QuestionState.Name(question.state).removeprefix("QUESTION_STATE_").lower() + edited


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
