"""The command that lists what executions ask people: questions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.forms import fields_of
from coxswain.client.cli.outages import Outages
from coxswain.client.cli.session import (
    EXIT_INTERRUPTED,
    JsonOption,
    Session,
    harmless,
    one_line,
    plain,
    session_of,
    styled,
)
from coxswain.client.later import question_pb2, question_state_pb2
from coxswain.client.paging import pages

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

_PREVIEW = 200


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
        request = question_pb2.ListQuestionsRequest(page_size=min(limit, 1000), execution_id=execution)
        if not every:
            request.states.append(question_state_pb2.QUESTION_STATE_OPEN)
        if crew:
            request.crew_id = client.get_crew(crew).id
        found = list(pages(client.questions.ListQuestions, request, "questions", limit))
    if session.json:
        return session.print_json(found)
    for question in found:
        _print(session, _summary(question))
    if not found:
        session.say("no questions" if every else "no open questions")
    elif any(question.state == question_state_pb2.QUESTION_STATE_OPEN for question in found):
        session.say("answer one with: coxswain answer ID")
    return None


def subject_of(question: question_pb2.Question) -> str:
    """Return what a question is about, in full."""
    call = question.call
    if question.HasField("result"):
        return question.result.text
    lines = [f"{call.tool_name} {call.arguments_json}"]
    lines += [f"{call.agent_role}: {call.agent_text}"] if call.agent_text else []
    lines += [f"seen of it: {call.observation}"] if call.observation else []
    lines += [f"address: {call.url}"] if call.url else []
    return "\n".join(lines)


def _watch(session: Session, client: Client, after: int) -> None:
    sequence, outages = after, Outages(session.err)
    try:
        watching = client.watch_questions(after, on_outage=outages.lost, on_return=outages.back)
        with closing(watching) as changes:
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
        session.out.print(styled(line), soft_wrap=not session.out.is_terminal)


def _summary(question: question_pb2.Question) -> Iterator[str]:
    """A question in lines of which the id is the longest word."""
    yield f"{question.id}  {state_of(question)}"
    asked = _moment(question.create_time.ToDatetime(UTC))
    yield f"  {one_line(f'{question.crew_name} / {question.task_name}, {asked}')}"
    subject = one_line(subject_of(question))
    yield f"  {one_line(question.text)}"
    yield f"  > {subject[:_PREVIEW]}{'...' if len(subject) > _PREVIEW else ''}"
    if (
        question.state == question_state_pb2.QUESTION_STATE_OPEN
        and question.kind == question_state_pb2.QuestionKind.QUESTION_KIND_FORM
    ):
        for field in fields_of(plain(question.schema)):
            yield f"  {one_line(field.line())}"
    if question.state == question_state_pb2.QUESTION_STATE_OPEN and question.HasField("deadline"):
        then = (
            question_state_pb2.OnDeadline.Name(question.on_deadline)
            .removeprefix("ON_DEADLINE_")
            .lower()
            .replace("_", " ")
        )
        yield f"  until {_moment(question.deadline.ToDatetime(UTC))}, then {then}"
    if question.answered_by:
        yield harmless(f"  by {question.answered_by}")
    if question.decline_reason:
        yield f"  because: {one_line(question.decline_reason)}"


def state_of(question: question_pb2.Question) -> str:
    """What has become of a question, in words."""
    edited = ", edited" if question.HasField("accepted_content") and _is_edit(question) else ""
    return question_state_pb2.QuestionState.Name(question.state).removeprefix("QUESTION_STATE_").lower() + edited


def _is_edit(question: question_pb2.Question) -> bool:
    """Whether an answer with a content is another one than what was asked about."""
    if question.kind == question_state_pb2.QuestionKind.QUESTION_KIND_TOOL_APPROVAL:
        return "arguments" in question.accepted_content.struct_value
    return question.kind == question_state_pb2.QuestionKind.QUESTION_KIND_RESULT_APPROVAL


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
