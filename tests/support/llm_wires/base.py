"""What an emulator has to know of a provider's wire.

A wire reads a request into OpenAI's form, refuses what the real provider refuses, and writes the answer that
`llm_replies` made of it in the provider's own form. Everything else (rules, the log, faults, cuts, pauses) is the
emulator's.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.support.llm_replies import Completion, JsonObject
from tests.support.llm_script import Fault, Route


class Refused(Exception):
    """A call answered with an HTTP error in its dialect; `code` None is the usual one of the status."""

    def __init__(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a wire; `path` is aiohttp's pattern below the wire's prefix."""

    path: str
    route: Route | None
    """None: the body decides (see `Wire.route_of`)."""
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as it came."""

    endpoint: Endpoint
    path: Mapping[str, str]
    """Values of the pattern."""
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    body: Any = field(repr=False)
    """The JSON document; None when it is none."""

    @property
    def fields(self) -> JsonObject:
        return self.body if isinstance(self.body, dict) else {}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a valid request asks for."""

    chat: JsonObject = field(default_factory=dict)
    """As a body of OpenAI's chat completions: what the answer is made of."""
    texts: tuple[str, ...] = ()
    """Of an embeddings request."""
    dimensions: int | None = None


Event = tuple[str, JsonObject]
"""A name ("" where the wire has none) and a document."""


class Wire(ABC):
    """One provider's interface."""

    name: ClassVar[str]
    prefix: ClassVar[str]
    """Where its paths begin in the emulator."""
    stream_type: ClassVar[str] = "text/event-stream"
    end: ClassVar[str] = ""
    """What follows the last event, "" for nothing."""
    needs_key: ClassVar[bool] = False

    @abstractmethod
    def endpoints(self) -> list[Endpoint]: ...

    def route_of(self, incoming: Incoming) -> Route:
        if incoming.endpoint.route is None:
            raise no_such_endpoint()
        return incoming.endpoint.route

    def key(self, incoming: Incoming) -> str | None:
        """The credential a request came with."""
        return bearer_of(incoming.headers)

    @abstractmethod
    def refused_key(self, key: str | None) -> Refused: ...

    def model(self, incoming: Incoming) -> str:
        model = incoming.fields.get("model")
        return model if isinstance(model, str) else ""

    def unknown_model(self, model: str) -> Refused:
        return Refused(404, None, f"The model `{model}` does not exist")

    def streams(self, incoming: Incoming) -> bool:
        return bool(incoming.fields.get("stream"))

    @abstractmethod
    def read(self, incoming: Incoming, route: Route) -> Asked:
        """Return what is asked; Refused when the provider would not take it."""

    @abstractmethod
    def whole(self, asked: Asked, completion: Completion) -> JsonObject: ...

    def opening(self, asked: Asked, completion: Completion) -> list[Event]:
        return []

    @abstractmethod
    def content(self, asked: Asked, completion: Completion) -> list[list[Event]]:
        """The chunks that carry content, each the events that are written together."""

    def closing(self, asked: Asked, completion: Completion) -> list[Event]:
        return []

    def embeddings(self, model: str, asked: Asked, vectors: list[list[float]], tokens: int) -> JsonObject:
        raise no_such_endpoint()

    def models(self, names: list[str]) -> JsonObject:
        return {
            "object": "list",
            "data": [{"id": n, "object": "model", "created": 0, "owned_by": "emulator"} for n in names],
        }

    def count(self, tokens: int) -> JsonObject:
        raise no_such_endpoint()

    @abstractmethod
    def error(self, fault: Fault, *, streamed: bool) -> Any:
        """The document of an error; `streamed` says that a stream was asked for."""

    def error_headers(self, fault: Fault) -> dict[str, str]:
        headers = {}
        if fault.retry_after is not None:
            headers["Retry-After"] = fault.retry_after
        if fault.retry_after_ms is not None:
            headers["retry-after-ms"] = fault.retry_after_ms
        return headers

    def error_event(self, fault: Fault, completion: Completion | None) -> Event:
        """An error within a stream; without a completion it is the first event."""
        return "", self.error(fault, streamed=True)

    def keep_alive(self, end: str) -> str:
        return f": still working{end}{end}"

    def malformed(self, end: str) -> str:
        return f"data: {{this is no json{end}{end}"

    def frame(self, event: Event, end: str) -> str:
        """An event as it is written; `end` ends a line."""
        name, document = event
        return (f"event: {name}{end}" if name else "") + f"data: {dumped(document)}{end}{end}"


def no_such_endpoint() -> Refused:
    """What a provider says of an endpoint that it does not have."""
    return Refused(404, None, "The requested resource was not found")


def dumped(document: Any) -> str:
    """JSON as providers write it; half characters, which have no UTF-8 form, come as escapes."""
    text = json.dumps(document, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(document)
    return text


def bearer_of(headers: Mapping[str, str]) -> str | None:
    """The token of an authorization header (`headers` in lower case), or None without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else None
