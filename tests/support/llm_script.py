"""What an LLM emulator is told to do: rules that pick a call and say how it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Route = Literal["chat", "embeddings", "models", "count"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Strict):
    """Conditions on a call; all that are given must hold."""

    route: Route | None = None
    model: str | None = None
    contains: str | None = None
    """Substring of any message's text or of any embedding input."""
    last_contains: str | None = None
    """Substring of the last message's text."""
    last_role: str | None = None
    """Role of the last message, for example `tool` once a tool has answered."""
    offers_tool: str | None = None
    """Name of a tool the call offers."""
    stream: bool | None = None
    bearer: str | None = None
    """The token after `Bearer ` in the authorization header."""
    wire: str | None = None
    """Name of the wire the call is in, for example `anthropic`."""
    has_field: str | None = None
    """Name of a field that the request's body has."""
    more_inputs_than: int | None = None
    """A call for embeddings with more texts than that."""
    more_characters_than: int | None = None
    """A call whose texts have more characters than that, taken together."""
    nth: int | None = Field(default=None, ge=1)
    """Only the nth call (from 1) among those that meet the other conditions."""
    times: int | None = Field(default=None, ge=1)
    """At most this many calls; later ones go on to the next rule."""


class ToolCall(_Strict):
    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    """An object, or the raw string to send (which need not be valid JSON)."""
    id: str | None = None
    signature: str | None = None
    """What the provider wants back with the call, on wires that have it."""


class Usage(_Strict):
    prompt_tokens: int
    """All of the prompt: what was read from a cache or written to one is part of it."""
    completion_tokens: int
    """All of the answer: reasoning is part of it."""
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class Fault(_Strict):
    """An HTTP error answer in the dialect of the path that was called."""

    status: int = Field(ge=400, le=599)
    code: str | None = None
    """What the wire has for it: an OpenAI code, an Anthropic type, a Google status. None: the usual one."""
    message: str = "fault on demand"
    retry_after: str | None = None
    """Seconds or an HTTP date, where the wire says it: mostly the Retry-After header."""
    retry_after_ms: str | None = None
    """Value of the retry-after-ms header."""
    sent_as: int | None = Field(default=None, ge=200, le=599)
    """HTTP status it is sent with, when that is another. 200: in the place of an answer or a stream's first event."""
    body: str | None = None
    """Sent instead of the JSON error when given (an HTML page of a gateway, say)."""


class Reply(_Strict):
    """How a call is answered. Nothing set: the deterministic echo.

    Counts of chunks mean chunks that carry content; the opening role chunk is not one of them.
    """

    text: str | None = None
    chunks: list[str] | None = None
    """The stream's exact pieces; their join is the text."""
    reasoning: str | None = None
    """What the model thought, where the wire has it."""
    signature: str | None = None
    """The signature of the reasoning, on wires that sign it."""
    refusal: str | None = None
    """The words of a refusal, on wires that send them apart from the text."""
    content_blocks: list[dict[str, Any]] | None = None
    """Content as a list of typed blocks (see `gpt_oss_blocks`)."""
    plain_text_deltas: bool = False
    """With content blocks in a stream: text comes as plain strings after the reasoning blocks."""
    tool_calls: list[ToolCall] = Field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage | None = None
    omit_usage: bool = False
    vectors: list[list[float]] | None = None
    """Embeddings to answer with, one per input."""
    latency_s: float = Field(default=0.0, ge=0.0)
    """Seconds before anything is sent."""
    token_delay_s: float = Field(default=0.0, ge=0.0)
    """Seconds before each content chunk of a stream."""
    fault: Fault | None = None
    hang: bool = False
    """Send nothing until released."""
    hang_after_headers: bool = False
    """Send status and headers, then nothing until released: the first byte is slow."""
    hang_after_chunks: int | None = Field(default=None, ge=0)
    """In a stream: stop after that many content chunks until released."""
    drop: bool = False
    """Close the connection without an answer."""
    drop_after_chunks: int | None = Field(default=None, ge=0)
    """In a stream: close the connection after that many content chunks."""
    malformed_after_chunks: int | None = Field(default=None, ge=0)
    """In a stream: send an event that is no JSON after that many content chunks, then go on."""
    error_after_chunks: int | None = Field(default=None, ge=0)
    """In a stream: send `error` as an event after that many content chunks, then end."""
    error: Fault = Fault(status=500, message="stream failed on demand")
    cut_after_bytes: int | None = Field(default=None, ge=0)
    """Close the connection after that many bytes of the body, wherever that is."""
    cut_headers: bool = False
    """Close the connection within the headers of the answer."""
    hang_after_bytes: int | None = Field(default=None, ge=0)
    """Stop after that many bytes of the body until released."""
    gzip: bool = False
    """Send the body packed, asked for or not."""
    fragment_bytes: int | None = Field(default=None, ge=1)
    """In a stream: write in pieces of that many bytes, wherever they cut lines and characters."""
    comments: bool = False
    """In a stream: before every event what the wire sends to keep a connection open, mostly a comment line."""
    crlf: bool = False
    """In a stream: end lines with CR LF."""
    omit_done: bool = False
    """End the stream without its [DONE] event."""
    raw_body: str | None = None
    """Sent instead of a completion."""
    raw_status: int = Field(default=200, ge=200, le=299)
    """The HTTP status that `raw_body` is sent with."""
    raw_label: str = "text/html"
    """The content type that `raw_body` is sent with."""


class Rule(_Strict):
    when: When = Field(default_factory=When)
    reply: Reply = Field(default_factory=Reply)


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What conditions are tested on."""

    route: Route
    model: str
    texts: tuple[str, ...]
    last_text: str
    last_role: str
    tools: frozenset[str]
    stream: bool
    bearer: str | None
    wire: str = "openai"
    fields: frozenset[str] = frozenset()


class _ActiveRule:
    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.met = 0
        self.used = 0

    def takes(self, call: CallFacts) -> bool:
        when = self.rule.when
        if not _conditions_hold(when, call):
            return False
        self.met += 1
        if when.nth is not None and self.met != when.nth:
            return False
        if when.times is not None and self.used >= when.times:
            return False
        self.used += 1
        return True


class Script:
    """Rules in order; the first that takes a call answers it."""

    def __init__(self) -> None:
        self._rules: list[_ActiveRule] = []

    def add(self, rule: Rule) -> None:
        self._rules.append(_ActiveRule(rule))

    def clear(self) -> None:
        self._rules.clear()

    def reply_to(self, call: CallFacts) -> Reply:
        for active in list(self._rules):
            if active.takes(call):
                return active.rule.reply
        return Reply()


def _conditions_hold(when: When, call: CallFacts) -> bool:
    return (
        (when.route is None or when.route == call.route)
        and (when.model is None or when.model == call.model)
        and (when.contains is None or any(when.contains in text for text in call.texts))
        and (when.last_contains is None or when.last_contains in call.last_text)
        and (when.last_role is None or when.last_role == call.last_role)
        and (when.offers_tool is None or when.offers_tool in call.tools)
        and (when.stream is None or when.stream == call.stream)
        and (when.bearer is None or when.bearer == call.bearer)
        and (when.wire is None or when.wire == call.wire)
        and (when.has_field is None or when.has_field in call.fields)
        and (when.more_characters_than is None or sum(map(len, call.texts)) > when.more_characters_than)
        and (when.more_inputs_than is None or (call.route == "embeddings" and len(call.texts) > when.more_inputs_than))
    )
