"""What a model answers: whole, in parts, or as vectors."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from services.models.domain.conversation import Thinking, ToolCall
from services.models.domain.usage import Usage

Vectors = NDArray[np.float32]
"""One unit-length row for each text."""


class FinishReason(StrEnum):
    """Why an answer ended; the values are those of OpenAI's interface."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """A piece of thinking that is complete; its text has come as reasoning before."""

    thinking: Thinking


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a tool call."""

    index: int
    id: str = ""
    name: str = ""
    arguments_json: str = ""
    provider_state: str = ""


@dataclass(frozen=True, slots=True)
class UsageDelta:
    """What the call used."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class FinishDelta:
    """The end."""

    reason: FinishReason
    upstream_model: str
    dropped_parameters: tuple[str, ...] = ()
    schema_violations: tuple[str, ...] = ()
    """What of the text does not follow the schema that was asked for."""
    answered_by: str = ""


Delta = TextDelta | ReasoningDelta | ThinkingDelta | ToolCallDelta | UsageDelta | FinishDelta


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A vector for each text of a request."""

    vectors: Vectors
    usage: Usage | None
    """None when the upstream sent none."""
