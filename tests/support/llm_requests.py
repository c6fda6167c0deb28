"""The requests an OpenAI-compatible upstream takes; what is not named here is let through unread."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class CalledFunction(_Open):
    name: str
    arguments: str


class CalledTool(_Open):
    id: str
    function: CalledFunction


class Message(_Open):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None


class OfferedFunction(_Open):
    name: str
    parameters: dict[str, Any] | None = None


class OfferedTool(_Open):
    type: Literal["function"]
    function: OfferedFunction


class ChosenFunction(_Open):
    name: str


class ChosenTool(_Open):
    function: ChosenFunction


class NamedSchema(_Open):
    name: str
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(_Open):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StreamOptions(_Open):
    include_usage: bool = False


class ChatBody(_Open):
    messages: list[Message] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    response_format: ResponseFormat | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: Literal[1] | None = None
    """More than one choice is not served here."""


_Text = Annotated[str, StringConstraints(min_length=1)]
_TokenIds = Annotated[list[int], Field(min_length=1)]


class EmbeddingBody(_Open):
    input: (
        _Text
        | Annotated[list[_Text], Field(min_length=1)]
        | _TokenIds
        | Annotated[list[_TokenIds], Field(min_length=1)]
    )
    dimensions: int | None = Field(default=None, ge=1, le=8192)
    encoding_format: Literal["float", "base64"] | None = None
