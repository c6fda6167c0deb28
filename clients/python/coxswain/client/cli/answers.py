"""The command that answers what an execution asks: answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from coxswain.client.cli.forms import FieldError, FormField, fields_of, filled, shown
from coxswain.client.cli.questions import state_of, subject_of
from coxswain.client.cli.session import EXIT_USAGE, JsonOption, Session, harmless, plain, session_of
from coxswain.client.later import question_pb2, question_state_pb2, values
from coxswain.client.text_files import read_text

_MAX_BYTES = 4_000_000
_EXIT_LEFT_OPEN = 1


@dataclass(frozen=True, slots=True)
class _Ways:
    """How questions of one kind are answered."""

    options: str
    """What to give on the command line."""
    choices: tuple[str, ...]
    """What to choose from on a terminal, beside cancel and later."""


_WAYS = {
    "RESULT_APPROVAL": _Ways("--approve, --refuse FEEDBACK or --edit FILE", ("approve", "refuse")),
    "TOOL_APPROVAL": _Ways(
        "--approve (with --remember also for later calls), --refuse FEEDBACK, or other arguments with --field "
        "NAME=VALUE, --content JSON or --edit FILE",
        ("approve", "always", "edit", "refuse"),
    ),
    "OUTCOME_UNKNOWN": _Ways(
        "find out, then --happened RESULT, --not-happened or --refuse REASON", ("happened", "not-happened", "refuse")
    ),
    "FORM": _Ways(
        "--answer TEXT (where there is one field), --field NAME=VALUE, --content JSON, --edit FILE or --refuse REASON",
        ("answer", "refuse"),
    ),
    "URL": _Ways("--approve when you have been there, or --refuse REASON", ("approve", "refuse")),
}


def answer(
    context: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="The question's id.")],  # noqa: A002
    approve: Annotated[
        bool,
        typer.Option("--approve", help="Accept the result or the call as it is; the address was visited."),
    ] = False,
    text: Annotated[
        str | None, typer.Option("--answer", metavar="TEXT", help="The answer to a question with one field.")
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            metavar="NAME=VALUE",
            help="A field of a form, or another argument for a call; NAME:=JSON for any value. Repeatable.",
        ),
    ] = None,
    content: Annotated[
        str | None,
        typer.Option(
            metavar="JSON", help="All fields of a form, all arguments of a call, or the result of a call that happened."
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
    refuse: Annotated[
        str | None,
        typer.Option(
            "--refuse",
            metavar="FEEDBACK",
            help="A result: the task runs again with this feedback. A call: the model is told. An unknown outcome: the "
            "task ends.",
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
    """Answer a question. Without an option it shows the question, and asks for the answer on a terminal.

    Examples:

        coxswain answer 01a20694-1f86-7c54-8594-1ba930202397

        coxswain answer 01a20694-1f86-7c54-8594-1ba930202397 --approve

        coxswain answer 01a20694-1f86-7c54-8594-1ba930202397 --answer "the one in Bergen"

        coxswain answer 01a20694-1f86-7c54-8594-1ba930202397 --field amount=20 --field currency=EUR

        coxswain answer 01a20694-1f86-7c54-8594-1ba930202397 --refuse "name the sources"

        coxswain answer 01a20694-1f86-7c54-8594-1ba930202397 --happened "receipt 4711"
    """
    session = session_of(context, as_json)
    chosen = {
        "--approve": approve,
        "--answer": text is not None,
        "--field": bool(fields),
        "--content": content is not None,
        "--edit": edit is not None,
        "--refuse": refuse is not None,
        "--happened": happened is not None,
        "--not-happened": not_happened,
        "--cancel": cancel,
    }
    ways = [option for option, is_chosen in chosen.items() if is_chosen]
    if len(ways) > 1:
        raise typer.BadParameter(f"give one of {', '.join(ways)}", param_hint="ID")
    if remember and not approve:
        raise typer.BadParameter("goes with --approve", param_hint="--remember")
    request = question_pb2.AnswerQuestionRequest(id=id)
    with session.client() as client:
        if refuse is not None:
            request.decline.CopyFrom(question_pb2.DeclineQuestion(reason=refuse))
        elif cancel:
            request.cancel.CopyFrom(question_pb2.CancelQuestion())
        else:
            question = client.questions.GetQuestion(question_pb2.GetQuestionRequest(id=id)).question
            if not ways:
                _ask(session, question, request)
            elif approve:
                request.accept.CopyFrom(_approved(question, remember=remember))
            else:
                given = _given(question, ways[0], text, fields or [], content, edit, happened)
                request.accept.CopyFrom(question_pb2.AcceptQuestion(content=values.to_value(given)))
        answered = client.questions.AnswerQuestion(request).question
    if session.json:
        return session.print_json(answered)
    session.show(f"{state_of(answered)}: execution {answered.execution_id}")
    return None


def _approved(question: question_pb2.Question, *, remember: bool) -> question_pb2.AcceptQuestion:
    if question.kind == question_state_pb2.QUESTION_KIND_OUTCOME_UNKNOWN:
        raise _not_for(question, "--approve")
    accept = question_pb2.AcceptQuestion()
    if question.kind == question_state_pb2.QUESTION_KIND_FORM:
        # What has to be given and was not is said here, in words of the form.
        accept.content.CopyFrom(values.to_value(_fill(_schema(question), [])))
    if remember:
        if question.kind != question_state_pb2.QUESTION_KIND_TOOL_APPROVAL:
            raise typer.BadParameter("goes with questions about calls that are to be approved", param_hint="--remember")
        accept.content.CopyFrom(values.to_value({"decision": "call", "remember": True}))
    return accept


def _given(
    question: question_pb2.Question,
    option: str,
    text: str | None,
    fields: list[str],
    content: str | None,
    edit: Path | None,
    happened: str | None,
) -> Any:
    """The content that the one option that was given means for a question. Raises typer.BadParameter."""
    kind = question.kind
    match option:
        case "--happened" | "--not-happened" if kind == question_state_pb2.QUESTION_KIND_OUTCOME_UNKNOWN:
            return {"happened": False} if happened is None else {"happened": True, "result": happened}
        case "--content" if kind == question_state_pb2.QUESTION_KIND_OUTCOME_UNKNOWN:
            return {"happened": True, "result": _parsed(content or "", "--content")}
        case "--answer" if kind == question_state_pb2.QUESTION_KIND_FORM:
            known = fields_of(_schema(question))
            if len(known) != 1:
                raise typer.BadParameter(
                    f"this form has several fields, so give --field NAME=VALUE for each: {_names(known)}",
                    param_hint="--answer",
                )
            return _fill(_schema(question), [f"{known[0].name}={text}"], hint="--answer")
        case "--field" if kind == question_state_pb2.QUESTION_KIND_FORM:
            return _fill(_schema(question), fields)
        case "--field" if kind == question_state_pb2.QUESTION_KIND_TOOL_APPROVAL:
            return _edited(_fill(_arguments_schema(question), fields, _arguments(question)))
        case "--content" if kind == question_state_pb2.QUESTION_KIND_TOOL_APPROVAL:
            return _edited(_parsed(content or "", "--content"))
        case "--content" if kind != question_state_pb2.QUESTION_KIND_URL and question.HasField("schema"):
            return _parsed(content or "", "--content")
        case "--edit" if edit is not None and kind not in {
            question_state_pb2.QUESTION_KIND_URL,
            question_state_pb2.QUESTION_KIND_OUTCOME_UNKNOWN,
        }:
            return _from_file(question, edit)
    raise _not_for(question, option)


def _not_for(question: question_pb2.Question, option: str) -> typer.BadParameter:
    return typer.BadParameter(
        f"does not answer this question ({_kind_name(question)}); give {_ways(question).options}",
        param_hint=option,
    )


def _kind(question: question_pb2.Question) -> str:
    return question_state_pb2.QuestionKind.Name(question.kind).removeprefix("QUESTION_KIND_")


def _kind_name(question: question_pb2.Question) -> str:
    return _kind(question).lower().replace("_", " ")


def _ways(question: question_pb2.Question) -> _Ways:
    return _WAYS[_kind(question)]


def _edited(arguments: Any) -> dict[str, Any]:
    return {"decision": "call_edited", "arguments": arguments}


def _from_file(question: question_pb2.Question, file: Path) -> Any:
    text = read_text(file, _MAX_BYTES).text
    if not question.HasField("schema"):
        return text
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file}: not valid JSON, which the question's schema asks for: {error}") from error
    return _edited(content) if question.kind == question_state_pb2.QUESTION_KIND_TOOL_APPROVAL else content


def _parsed(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not valid JSON: {error}", param_hint=option) from error


def _fill(
    schema: Mapping[str, Any], given: list[str], before: Mapping[str, Any] | None = None, hint: str = "--field"
) -> dict[str, Any]:
    try:
        return filled(schema, given, before)
    except FieldError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from error


def _schema(question: question_pb2.Question) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = plain(question.schema)
    return schema


def _arguments_schema(question: question_pb2.Question) -> Mapping[str, Any]:
    properties = _schema(question).get("properties")
    found = properties.get("arguments") if isinstance(properties, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _arguments(question: question_pb2.Question) -> Mapping[str, Any]:
    try:
        found = json.loads(question.call.arguments_json or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _names(fields: list[FormField]) -> str:
    return ", ".join(field.name for field in fields)


def _show(session: Session, question: question_pb2.Question) -> None:
    session.say(f"{question.crew_name} / {question.task_name}: {question.text}\n\n{subject_of(question)}\n")
    if question.kind == question_state_pb2.QUESTION_KIND_FORM:
        for field in fields_of(_schema(question)):
            session.say(f"  {field.line()}")


def on_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


def _ask(session: Session, question: question_pb2.Question, request: question_pb2.AnswerQuestionRequest) -> None:
    """Show a question and put the answer that is typed into the request."""
    if question.state != question_state_pb2.QUESTION_STATE_OPEN:
        session.fail(f"the question is {state_of(question)} already")
        raise typer.Exit(EXIT_USAGE)
    _show(session, question)
    ways = _ways(question)
    if not on_terminal():
        session.fail(f"answer it with {ways.options}; --cancel ends the execution")
        raise typer.Exit(EXIT_USAGE)
    choice = _choose((*ways.choices, "cancel", "later"))
    if choice == "later":
        session.say("the question stays open")
        raise typer.Exit(_EXIT_LEFT_OPEN)
    if choice == "cancel":
        request.cancel.CopyFrom(question_pb2.CancelQuestion())
    elif choice == "refuse":
        reason: str = typer.prompt("Why, or what to do better", default="", show_default=False, err=True)
        request.decline.CopyFrom(question_pb2.DeclineQuestion(reason=reason))
    else:
        content = _typed(session, question, choice)
        request.accept.CopyFrom(
            question_pb2.AcceptQuestion()
            if content is None
            else question_pb2.AcceptQuestion(content=values.to_value(content))
        )


def _typed(session: Session, question: question_pb2.Question, choice: str) -> Any:
    """The content that a choice and what is typed then mean; None for an answer without one."""
    match choice:
        case "always":
            return {"decision": "call", "remember": True}
        case "edit":
            arguments = _arguments(question)
            schema = _arguments_schema(question)
            known = {field.name for field in fields_of(schema)}
            more = [FormField(name, {}) for name in arguments if name not in known]
            return _edited(_fields_typed(session, [*fields_of(schema), *more], arguments))
        case "answer":
            return _fields_typed(session, fields_of(_schema(question)), {})
        case "happened":
            return {"happened": True, "result": typer.prompt("What it returned, for the model", err=True)}
        case "not-happened":
            return {"happened": False}
        case _:
            return None


def _choose(choices: tuple[str, ...]) -> str:
    """One of the choices, typed in full or by as many letters as tell it from the others."""
    while True:
        typed: str = typer.prompt(", ".join(choices[:-1]) + f" or {choices[-1]}?", prompt_suffix=" ", err=True)
        found = [choice for choice in choices if choice.startswith(typed.strip().lower())]
        exact = [choice for choice in found if choice == typed.strip().lower()]
        if len(exact or found) == 1:
            return (exact or found)[0]
        typer.echo(f"type one of {', '.join(choices)}", err=True)


def _fields_typed(session: Session, fields: list[FormField], before: Mapping[str, Any]) -> dict[str, Any]:
    """The values of fields that are typed one by one; nothing typed means what there was, or the default."""
    values = dict(before)
    for field in fields:
        value = _field_typed(field, before, session.say)
        if value is not _NOTHING:
            values[field.name] = value
    return values


_NOTHING: Any = object()


def _field_typed(field: FormField, before: Mapping[str, Any], say: Callable[[str, str], None]) -> Any:
    present = before.get(field.name, field.default if field.has_default else _NOTHING)
    label = harmless(f"{field.title} ({field.kind()})")
    while True:
        default = "" if present is _NOTHING else shown(present)
        typed: str = typer.prompt(label, default=default, show_default=present is not _NOTHING, err=True)
        if typed == default and (present is not _NOTHING or not field.required):
            return present
        if not typed and field.required:
            say("it has to be given", "red")
            continue
        try:
            return field.value(typed)
        except FieldError as error:
            say(str(error), "red")
