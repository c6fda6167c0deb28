"""Answers that have to have a form: how they are read, and what a model is told when one cannot be.

CrewAI asks the very same question again, or takes a call of a tool that it cannot read for the result.
"""

import json
import re
from collections.abc import Callable, Collection
from typing import Any, Literal, TypeVar

from crewai.agents.constants import FINAL_ANSWER_ACTION
from crewai.agents.parser import AgentAction, OutputParserError, parse
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import BaseModel, ValidationError

from services.orchestrator.worker.crew.result_class import violations_of

T = TypeVar("T")

OBSERVATION = "\nObservation:"
"""Where a model that calls tools in words has to stop: what follows is not its to write."""
_MOST_PROBLEMS = 10
_LONGEST_VALUE = 100
_LONGEST_ANSWER = 2000
# CrewAI's parser needs time that grows with the square of a gap.
_WIDEST_GAP = 1000
_WIDE_GAP = re.compile(rf"\s{{{_WIDEST_GAP},}}")


# CrewAI's parser looks for an input behind every action, up to the end of the text where there is none.
_ACTION = re.compile(r"Action\s*\d*\s*:")
_ACTION_INPUT = re.compile(r"Action\s*\d*\s*Input\s*\d*\s*:")


_TAGGED_CALL = re.compile(r"<(?:tool_call|function_call)>(.*?)(?:</|$)", re.DOTALL)
_FENCE = re.compile(r"^```(?:json)?\s|```$")
_ARGUMENTS = {"arguments", "parameters", "args"}
_CALL = {"name", "id", "type", *_ARGUMENTS}
_WRAPPED_CALL = {"function", "id", "type", "index"}


class Unusable(Exception):
    """An answer does not have the form that was asked for; `request` asks for it once more."""

    def __init__(self, problems: list[str], request: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.request = request


Reader = Callable[[str], T]


def schema_reader(schema: type[BaseModel]) -> Reader[BaseModel]:
    """Return what reads answers that have to follow a schema; it raises Unusable.

    Properties that the schema does not have are left out, as CrewAI does with classes; all stay where it names none.
    """
    others: Literal["allow", "ignore"] = "ignore" if schema.model_fields else "allow"

    def read(text: str) -> BaseModel:
        found = _json_in(text)
        if found is None:
            raise _not_following(["it holds no JSON object"])
        try:
            result = schema.model_validate_json(json.dumps(found), extra=others)
        except ValidationError as error:
            raise _not_following([_problem_text(problem) for problem in error.errors()[:_MOST_PROBLEMS]]) from error
        problems = violations_of(result, found)
        if problems:
            raise _not_following(problems)
        return result

    return read


def _not_following(problems: list[str]) -> Unusable:
    listed = "\n".join(f"- {problem}" for problem in problems)
    return Unusable(
        problems,
        f"Your answer does not follow the JSON schema that was asked for:\n{listed}\n"
        "Give the whole answer once more, as JSON that follows the schema, with nothing before or after it.",
    )


def read_in_words(text: str, tools: Collection[str] = ()) -> str:
    """Return the part of an answer that counts when tools are called in words.

    Raises Unusable when the answer begins to call a tool and does not say how, or names none of `tools`, if there are
    any: CrewAI would call one with a similar name.
    """
    text = _without_wide_gaps(text.split(OBSERVATION, 1)[0].rstrip())
    if FINAL_ANSWER_ACTION in text:
        return text if _soon_parsed(text) else text[text.rfind(FINAL_ANSWER_ACTION) :]
    if "Action:" not in text:
        return text
    try:
        if not _soon_parsed(text):
            raise OutputParserError("an action without an input")
        action = parse(text)
    except OutputParserError:
        problem = '"Action:" has to be followed by "Action Input:" in the next line'
        raise Unusable(
            [problem],
            f"Your answer calls no tool: {problem}, such as\nAction: the name of a tool\n"
            'Action Input: {"argument": "value"}\nor it has to begin with "Final Answer:". Give it once more.',
        ) from None
    if tools and isinstance(action, AgentAction) and sanitize_tool_name(action.tool) not in tools:
        problem = f"there is no tool {quoted(action.tool[:_LONGEST_VALUE])}"
        raise Unusable([problem], f"{problem}; the tools are: {', '.join(sorted(tools))}. Give the answer once more.")
    return text


def read_text(text: str, tools: Collection[str]) -> str:
    """Return an answer of a model that calls tools by itself.

    Raises Unusable when it is a call of one of `tools` written as text, which would be taken for the result.
    """
    if called := _written_call(text, tools):
        name = quoted(called)
        raise Unusable(
            [f"it writes a call of the tool {name} as text; set tool_calling to TOOL_CALLING_IN_WORDS"],
            f"You wrote a call of the tool {name} as text, and nothing was called. Call the tool itself, or give "
            "your final answer.",
        )
    return text


def read_last(text: str, tools: Collection[str]) -> str:
    """Return an agent's answer when it can call nothing any more.

    Raises Unusable when it calls one of `tools` all the same, as text or in words: that would be taken for the result.
    """
    text = _without_wide_gaps(text)
    if called := _written_call(text, tools) or _call_in_words(text, tools):
        name = quoted(called)
        raise Unusable(
            [f"it calls the tool {name}, and has reached its max_iterations; raise them"],
            f"You called the tool {name}, and no tool can be called any more. Give your final answer with what you "
            "know.",
        )
    return text


def _without_wide_gaps(text: str) -> str:
    return _WIDE_GAP.sub(lambda gap: gap[0][:_WIDEST_GAP], text)


def _written_call(text: str, tools: Collection[str]) -> str:
    """Return the tool that a text calls as models write calls, the first of several; empty if it calls none."""
    for written in (text, *_TAGGED_CALL.findall(text)):
        try:
            found = json.loads(_FENCE.sub("", written.strip()))
        except (ValueError, RecursionError):
            continue
        names = [_called(call) for call in (found if isinstance(found, list) else [found])]
        if names and all(name in tools for name in names):
            return names[0]
    return ""


def _called(call: Any) -> str:
    """Return the name in a call as models write one, bare or as a part of a message; empty if it is none."""
    if isinstance(call, dict) and call.keys() <= _WRAPPED_CALL:
        call = call.get("function")
    if not isinstance(call, dict) or not call.keys() & _ARGUMENTS or not call.keys() <= _CALL:
        return ""
    return str(call.get("name"))


def _call_in_words(text: str, tools: Collection[str]) -> str:
    """Return the tool that a text calls in words; empty if it calls none."""
    if FINAL_ANSWER_ACTION in text or not _soon_parsed(text):
        return ""
    try:
        action = parse(text)
    except OutputParserError:
        return ""
    return action.tool if isinstance(action, AgentAction) and sanitize_tool_name(action.tool) in tools else ""


def _soon_parsed(text: str) -> bool:
    """Return whether CrewAI's parser gets through in one go: the first action has an input, or there is no action."""
    action = _ACTION.search(text)
    return action is None or _ACTION_INPUT.search(text, action.end()) is not None


def quoted(text: str) -> str:
    """Return an answer as errors quote it."""
    text = text.strip()
    return f'"{text[:_LONGEST_ANSWER]}"' + (" (and more)" if len(text) > _LONGEST_ANSWER else "")


def _json_in(text: str) -> dict[str, Any] | None:
    """Return what may be meant as a JSON object: the text itself, or what stands between its outermost braces."""
    begin, end = text.find("{"), text.rfind("}")
    for candidate in (text, text[begin : end + 1] if 0 <= begin < end else ""):
        try:
            found = json.loads(candidate, strict=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return None


def _problem_text(problem: Any) -> str:
    path = ".".join(map(str, problem["loc"])) or "the answer"
    if problem["type"] == "missing":
        return f"{path}: is missing"
    value = json.dumps(problem["input"], ensure_ascii=False, default=str)
    shown = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}..."
    return f"{path}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, not {shown}"
