"""Answers that have to have a form: how they are read, and what a model is told when one cannot be.

CrewAI asks the very same question again, or takes a call of a tool that it cannot read for the result.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal, TypeVar

from crewai.agents.constants import FINAL_ANSWER_ACTION
from crewai.agents.parser import AgentAction, OutputParserError, parse
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import BaseModel, ValidationError

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
        problems: list[str] = []
        for found in _json_in(text):
            try:
                return schema.model_validate_json(json.dumps(found), extra=others)
            except ValidationError as error:
                problems = problems or [_told(problem) for problem in error.errors()[:_MOST_PROBLEMS]]
        problems = problems or ["it holds no JSON object"]
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise Unusable(
            problems,
            f"Your answer does not follow the JSON schema that was asked for:\n{listed}\n"
            "Give the whole answer once more, as JSON that follows the schema, with nothing before or after it.",
        )

    return read


def read_in_words(text: str, tools: Collection[str] = ()) -> str:
    """Return the part of an answer that counts when tools are called in words.

    Raises Unusable when the answer begins to call a tool and does not say how, or names none of `tools`, if there are
    any: CrewAI would call one with a similar name.
    """
    text = _WIDE_GAP.sub(lambda gap: gap[0][:_WIDEST_GAP], text.split(OBSERVATION, 1)[0].rstrip())
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
    for written in (text, *_TAGGED_CALL.findall(text)):
        try:
            call = json.loads(_FENCE.sub("", written.strip()))
        except (ValueError, RecursionError):
            continue
        if (
            isinstance(call, dict)
            and call.keys() & _ARGUMENTS
            and call.keys() <= _CALL
            and str(call.get("name")) in tools
        ):
            name = quoted(call["name"])
            raise Unusable(
                [f"it writes a call of the tool {name} as text; set tool_calling to TOOL_CALLING_IN_WORDS"],
                f"You wrote a call of the tool {name} as text, and nothing was called. Call the tool itself, or give "
                "your final answer.",
            )
    return text


def _soon_parsed(text: str) -> bool:
    """Return whether CrewAI's parser gets through in one go: the first action has an input, or there is no action."""
    action = _ACTION.search(text)
    return action is None or _ACTION_INPUT.search(text, action.end()) is not None


def quoted(text: str) -> str:
    """Return an answer as errors quote it."""
    text = text.strip()
    return f'"{text[:_LONGEST_ANSWER]}"' + (" (and more)" if len(text) > _LONGEST_ANSWER else "")


def _json_in(text: str) -> Iterator[Any]:
    """Yield what may be meant as JSON: the text itself, or what stands between its outermost braces."""
    begin, end = text.find("{"), text.rfind("}")
    for candidate in (text, text[begin : end + 1] if 0 <= begin < end else ""):
        try:
            found = json.loads(candidate, strict=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
            return


def _told(problem: Any) -> str:
    path = ".".join(map(str, problem["loc"])) or "the answer"
    if problem["type"] == "missing":
        return f"{path}: is missing"
    value = json.dumps(problem["input"], ensure_ascii=False, default=str)
    shown = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}..."
    return f"{path}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, not {shown}"
