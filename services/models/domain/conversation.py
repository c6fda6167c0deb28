"""What a model is asked to complete."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class MessageRole(StrEnum):
    """Who wrote a message; the values are those of OpenAI's interface."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Image:
    """A picture; it has either data or a URL."""

    data: bytes = b""
    url: str = ""
    """An https address that the upstream fetches."""
    media_type: str = ""
    """Empty means that it is read from the data."""
    detail: str = ""
    """How closely to look, by OpenAI's words; empty is the model's own choice."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file to read."""

    data: bytes
    media_type: str = ""
    """Empty means that it is read from the data."""
    file_name: str = ""


@dataclass(frozen=True, slots=True)
class Audio:
    """A recording."""

    data: bytes
    format: str = ""
    """Empty means that it is read from the data."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of a model's thinking that its upstream wants back in the next turn."""

    text: str
    provider_state: str
    """What the upstream wants back; callers hand it back unread."""


@dataclass(slots=True)
class ContentPart:
    """A part of a message: text, or something else."""

    text: str = ""
    material: bool = False
    """Text to work on, as opposed to instructions."""
    other: Image | Document | Audio | Thinking | None = None
    """What the part is when it is not text."""
    cache_mark: bool = False
    """Whether a beginning that later calls repeat ends with this part."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that a model asks for."""

    id: str
    name: str
    arguments_json: str
    """As the model wrote it, which may be invalid JSON."""
    provider_state: str = ""
    """What the provider wants back with the call in the next turn, such as a signature; callers hand it back unread."""


@dataclass(slots=True)
class Message:
    """One turn of a conversation."""

    role: MessageRole
    content: tuple[ContentPart, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        """The parts that are text, joined."""
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
    """A request for an answer in JSON."""

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
    thinking_budget_tokens: int | None = None


USUAL_SAMPLING = Sampling()
"""Of calls that say nothing about it."""


@dataclass(slots=True)
class Completion:
    """What to complete, and how."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: str = ""
    response_format: ResponseFormat | None = None
    sampling: Sampling = USUAL_SAMPLING
    extra_parameters: Mapping[str, Any] = field(default_factory=dict)
    """Further parameters of the provider, by name."""
    parallel_tool_calls: bool | None = None
    drop_unsupported_parameters: bool = False
    """Whether what the model does not take is left out; otherwise it is an error."""
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What its usage is summed by later; the answer does not depend on it."""
