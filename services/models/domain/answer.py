"""What a model answers: whole, in parts, or as vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from services.models.domain.conversation import Thinking, ToolCall
from services.models.domain.usage import Usage

# At most four bytes each: the smallest message that a server can be told to take holds them.
_PART_CHARACTERS = 14_000

Vectors = NDArray[np.float32]
"""One unit-length row for each text."""


class FinishReason(StrEnum):
    """Why an answer ended; the values are those of OpenAI's interface."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    SCHEMA_NOT_FOLLOWED = "schema_not_followed"
    """Of streams alone, whose text has been passed on when it is checked; no interface of a provider has it."""


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage | None
    """None when the upstream sent none."""
    upstream_model: str
    dropped_parameters: tuple[str, ...] = ()
    """What was not sent because the model does not take it."""
    thinking: tuple[Thinking, ...] = ()
    answered_by: str = ""
    """The name of the fallback that answered; empty when the model that was asked did."""
    stored: bool = False
    """Whether it is an earlier call's, so that nothing is billed for it now."""
    schema_unchecked: str = ""
    """Why it was not checked against the schema that was asked for; empty when it was, or none was asked for."""


@dataclass(slots=True)
class TextDelta:
    """More of the text."""

    text: str


@dataclass(slots=True)
class ReasoningDelta:
    """More of the reasoning."""

    text: str


@dataclass(slots=True)
class ThinkingDelta:
    """A piece of thinking that is complete; its text has come as reasoning before."""

    thinking: Thinking


@dataclass(slots=True)
class ToolCallDelta:
    """More of a tool call."""

    index: int
    id: str = ""
    name: str = ""
    arguments_json: str = ""
    provider_state: str = ""


@dataclass(slots=True)
class UsageDelta:
    """What the call used."""

    usage: Usage


@dataclass(slots=True)
class FinishDelta:
    """The end."""

    reason: FinishReason
    upstream_model: str
    dropped_parameters: tuple[str, ...] = ()
    schema_violations: tuple[str, ...] = ()
    """What of the text does not follow the schema that was asked for."""
    answered_by: str = ""
    stored: bool = False
    """Whether the answer is an earlier call's."""
    schema_unchecked: str = ""
    """See `Answer`."""


Delta = TextDelta | ReasoningDelta | ThinkingDelta | ToolCallDelta | UsageDelta | FinishDelta


class AnswerParts:
    """Puts the parts of an answer together."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._thinking: list[Thinking] = []
        self._calls: dict[int, list[ToolCallDelta]] = {}
        self._usage: Usage | None = None
        self._finish: FinishDelta | None = None

    def add(self, delta: Delta) -> None:
        """Take the next part."""
        match delta:
            case TextDelta(text):
                self._text.append(text)
            case ReasoningDelta(text):
                self._reasoning.append(text)
            case ThinkingDelta(thinking):
                self._thinking.append(thinking)
            case ToolCallDelta(index):
                self._calls.setdefault(index, []).append(delta)
            case UsageDelta(usage):
                self._usage = usage
            case FinishDelta():
                self._finish = delta

    def answer(self) -> Answer:
        """Return the whole answer. Raises ValueError before its finish."""
        if self._finish is None:
            raise ValueError("the answer has not ended")
        return Answer(
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            tool_calls=tuple(_joined(self._calls[index]) for index in sorted(self._calls)),
            finish_reason=self._finish.reason,
            usage=self._usage,
            upstream_model=self._finish.upstream_model,
            dropped_parameters=self._finish.dropped_parameters,
            thinking=tuple(self._thinking),
            answered_by=self._finish.answered_by,
            stored=self._finish.stored,
            schema_unchecked=self._finish.schema_unchecked,
        )


def _joined(deltas: Sequence[ToolCallDelta]) -> ToolCall:
    first = deltas[0]
    return ToolCall(first.id, first.name, "".join(delta.arguments_json for delta in deltas), first.provider_state)


def short_parts(delta: Delta) -> Iterator[Delta]:
    """Yield a part of an answer in parts that fit into messages, whatever an upstream sends at once."""
    match delta:
        case TextDelta(text) if len(text) > _PART_CHARACTERS:
            yield from map(TextDelta, _cut(text))
        case ReasoningDelta(text) if len(text) > _PART_CHARACTERS:
            yield from map(ReasoningDelta, _cut(text))
        case ToolCallDelta(arguments_json=text) if len(text) > _PART_CHARACTERS:
            first, *others = _cut(text)
            yield replace(delta, arguments_json=first)
            for other in others:
                yield ToolCallDelta(delta.index, arguments_json=other)
        case _:
            yield delta


def _cut(text: str) -> Iterator[str]:
    return (text[start : start + _PART_CHARACTERS] for start in range(0, len(text), _PART_CHARACTERS))


def parts_of(answer: Answer) -> Iterator[Delta]:
    """Yield a whole answer in the parts that a stream of it has."""
    if answer.reasoning:
        yield from short_parts(ReasoningDelta(answer.reasoning))
    yield from map(ThinkingDelta, answer.thinking)
    if answer.text:
        yield from short_parts(TextDelta(answer.text))
    for index, call in enumerate(answer.tool_calls):
        yield from short_parts(ToolCallDelta(index, call.id, call.name, call.arguments_json, call.provider_state))
    yield UsageDelta(answer.usage or Usage())
    yield FinishDelta(
        answer.finish_reason,
        answer.upstream_model,
        dropped_parameters=answer.dropped_parameters,
        answered_by=answer.answered_by,
        stored=answer.stored,
        schema_unchecked=answer.schema_unchecked,
    )


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A vector for each text of a request."""

    vectors: Vectors
    usage: Usage | None
    """None when the upstream sent none."""
