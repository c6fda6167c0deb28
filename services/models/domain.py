"""What the models service speaks of. Plain values: no wire, no rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARED_GROUP = ""
"""The group id of models that every group sees."""

Vectors = NDArray[np.float32]
"""One unit-length row for each text."""


class Provider(StrEnum):
    """How a model is reached."""

    OFFLINE = "offline"
    OPENAI = "openai"
    DATABRICKS = "databricks"
    LITELLM = "litellm"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do."""

    chat: bool = False
    embeddings: bool = False
    tools: bool = False
    json_schema: bool = False
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is configured of a model."""

    name: str
    provider: Provider
    description: str = ""
    upstream_model: str = ""
    """Empty means the name after its first `/`."""
    base_url: str = ""
    """Empty means the provider's default of this installation."""
    capabilities: Capabilities = Capabilities()
    context_window: int = 0
    """Tokens of prompt and answer together; 0 is unknown."""
    max_output_tokens: int = 0
    """0 means the upstream's default."""
    embedding_dimension: int = 0
    temperature: float | None = None
    """Used when a call names none."""
    input_cost_per_million_tokens: float = 0.0
    """US dollars."""
    output_cost_per_million_tokens: float = 0.0
    """US dollars."""

    @property
    def upstream_name(self) -> str:
        """The name the upstream knows the model by."""
        return self.upstream_model or self.name.partition("/")[2] or self.name

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Return US dollars for so many tokens."""
        return (
            input_tokens * self.input_cost_per_million_tokens + output_tokens * self.output_cost_per_million_tokens
        ) / 1_000_000


@dataclass(frozen=True, slots=True)
class ModelKey:
    """Which model is meant: exactly one of the two is set."""

    id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as one group sees it."""

    id: str
    group_id: str
    """`SHARED_GROUP`, or the group it belongs to."""
    spec: ModelSpec
    enabled: bool
    """Whether the group that looks may call it."""
    created_at: datetime
    updated_at: datetime

    @property
    def name(self) -> str:
        """The name calls refer to it by."""
        return self.spec.name

    @property
    def shared(self) -> bool:
        """Whether every group sees it; its address is then the operator's and trusted."""
        return self.group_id == SHARED_GROUP


class MessageRole(StrEnum):
    """Who speaks; the values are those of OpenAI's interface."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ContentPart:
    """A piece of a message."""

    text: str
    material: bool = False
    """Text to work on, as opposed to instructions."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to call a tool."""

    id: str
    name: str
    arguments_json: str
    """As the model wrote it, which may be invalid JSON."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: MessageRole
    content: tuple[ContentPart, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        """All pieces joined."""
        return "".join(part.text for part in self.content)


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool the model may call."""

    name: str
    description: str
    parameters_schema: Mapping[str, Any]
    """JSON schema of the arguments; empty means that there are none."""


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """A wish for JSON."""

    name: str
    schema: Mapping[str, Any]
    """JSON schema; empty means any object."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a model chooses; None is the model's own setting."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning_effort: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """What to complete, and how."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: str = ""
    response_format: ResponseFormat | None = None
    sampling: Sampling = Sampling()


class FinishReason(StrEnum):
    """Why an answer ended; the values are those of OpenAI's interface."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call."""

    input_tokens: int = 0
    output_tokens: int = 0
    """Reasoning included."""
    reasoning_tokens: int = 0
    cached_input_tokens: int = 0
    cost: float = 0.0
    """US dollars; 0 when prices are unknown."""
    estimated: bool = False


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


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a tool call."""

    index: int
    id: str = ""
    name: str = ""
    arguments_json: str = ""


@dataclass(frozen=True, slots=True)
class UsageDelta:
    """What the call used."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class FinishDelta:
    """The end."""

    reason: FinishReason
    upstream_model: str


Delta = TextDelta | ReasoningDelta | ToolCallDelta | UsageDelta | FinishDelta


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A vector for each text of a request."""

    vectors: Vectors
    usage: Usage | None
    """None when the upstream sent none."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A group's limits; 0 is no limit."""

    monthly_cost_limit: float = 0.0
    """US dollars in a calendar month (UTC)."""
    calls_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One call that was answered, or that had begun to be."""

    id: str
    group_id: str
    model: str
    execution_id: str
    called_at: datetime
    usage: Usage


class UsageGrouping(StrEnum):
    """What usage is summed by."""

    MODEL = "model"
    EXECUTION = "execution"


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Usage of several calls."""

    key: str
    """The model's name or the execution's id."""
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which calls to sum; None and empty mean all."""

    grouping: UsageGrouping
    start: datetime | None = None
    end: datetime | None = None
    execution_id: str = ""


def estimate_tokens(text: str) -> int:
    """Return about how many tokens `text` has: four characters a token where they are ASCII, else one each."""
    ascii_length = len(text.encode("ascii", "ignore"))
    return -(-ascii_length // 4) + len(text) - ascii_length


def estimate_prompt_tokens(messages: Sequence[Message]) -> int:
    """Return about how many tokens a conversation has, with the few that every message adds."""
    return sum(
        4
        + estimate_tokens(message.text)
        + sum(estimate_tokens(call.name) + estimate_tokens(call.arguments_json) for call in message.tool_calls)
        for message in messages
    )
