"""The HTTP requests of one call within the helper: where they go, how long they may take, and how they fail.

litellm, its handlers and the openai client each send a request again when it fails. Here one that failed is the last of
its call: whether another may follow, and what the lost one cost, is for the service to decide.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp
import httpx

_KEPT_BYTES = 64 * 1024
_MAX_CAUSES = 10
_ERROR_BODY_SECONDS = 5.0
# litellm's transport makes plain RequestErrors of some of aiohttp's errors.
_LOST = (httpx.RequestError, aiohttp.ClientError, OSError)
# Of these, what is wrong with the request itself.
_NEVER_SENT = (httpx.LocalProtocolError, httpx.UnsupportedProtocol, aiohttp.InvalidURL)
_SILENCES = (httpx.ReadTimeout, httpx.WriteTimeout)


class Failure(StrEnum):
    """How a request failed, as the service is told."""

    UNREACHABLE = "unreachable"
    """No answer began: nothing was connected to, or the connection was lost before."""
    UNRESOLVED = "unresolved"
    """The name of the host leads to no address."""
    UNSENDABLE = "unsendable"
    """The request cannot be sent as it is: neither the provider nor the way to it is to blame."""
    SILENT = "silent"
    """Nothing came for too long, and nothing had come before."""
    CUT = "cut"
    """The connection was lost within an answer."""
    STALLED = "stalled"
    """Nothing came for too long within an answer."""


class Elsewhere(Exception):
    """A request would have gone to another origin than its call's; the text is that origin."""


class TooLarge(Exception):
    """An answer is larger than the limit."""


class RequestFailed(Exception):
    """A request of the call has failed; its `Exchange` says how."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds."""

    connect: float
    first_byte: float
    """Until the status of an answer, and from there until the first byte of its body."""
    idle: float
    """Between two bytes of a body."""


@dataclass(slots=True)
class Exchange:
    """The requests of one call."""

    origin: str
    """Where they may go: elsewhere, they would carry the call's key to somebody else."""
    limits: TimeLimits
    streamed: bool
    """Whether the answer is read as it comes."""
    note_sent: Callable[[], None]
    """Called when a request has been sent: from then on the provider works."""
    sent: bool = False
    refused: bool = False
    """Whether the status of an error has come: then the provider has done nothing that is paid for."""
    answering: bool = False
    """Whether an answer has begun, by its status."""
    begun: bool = False
    """Whether any of an answer's body has come."""
    failure: Failure | None = None
    _said: bytearray = field(default_factory=bytearray)

    def hear(self, piece: bytes) -> None:
        """Remember the end of what the provider says: an error of its own is there, whatever litellm makes of it."""
        self._said += piece
        if len(self._said) > 2 * _KEPT_BYTES:
            del self._said[:-_KEPT_BYTES]

    @property
    def said(self) -> str | None:
        """The end of what the provider answered with success; None where that is not text."""
        if not self.answering or b"\0" in self._said:
            return None
        return self._said[-_KEPT_BYTES:].decode("utf-8", "replace")

    def has_been_sent(self) -> None:
        """Take note of a request that has been sent."""
        if not self.sent:
            self.sent = True
            self.note_sent()

    def has_answered(self, *, success: bool) -> None:
        """Take note of the status of a response, whose body follows."""
        self.has_been_sent()
        self.answering, self.refused = success, not success
        self._said.clear()

    def fail(self, failure: Failure) -> RequestFailed:
        """Take note of a failure, and return what to raise."""
        self.failure = self.failure or failure
        return RequestFailed(self.failure)


current_exchange: ContextVar[Exchange | None] = ContextVar("current_exchange", default=None)


def guard_requests(max_bytes: int) -> None:
    """Put every request of this process under the rules of its call; `max_bytes` is the largest body, unpacked."""
    _guard_sending()
    _note_sent_bodies()
    _limit_bodies(max_bytes)
    _never_retry()


def _guard_sending() -> None:
    send, send_blocking = httpx.AsyncClient._send_single_request, httpx.Client._send_single_request  # noqa: SLF001

    async def guarded(client: Any, request: httpx.Request) -> httpx.Response:
        exchange = _admit(request)
        limit = asyncio.timeout(exchange.limits.first_byte)
        try:
            async with limit:
                response = await send(client, request)
        except Exception as error:
            raise exchange.fail(Failure.SILENT if limit.expired() else _failure_of(error)) from error
        exchange.has_answered(success=response.is_success)
        response.stream = _Body(response.stream, exchange, answers=response.is_success)
        return response

    def guarded_blocking(client: Any, request: httpx.Request) -> httpx.Response:
        exchange = _admit(request, blocking=True)
        try:
            return send_blocking(client, request)
        except Exception as error:
            raise exchange.fail(_failure_of(error)) from error

    httpx.AsyncClient._send_single_request = guarded  # type: ignore[method-assign, assignment]  # noqa: SLF001
    httpx.Client._send_single_request = guarded_blocking  # type: ignore[method-assign, assignment]  # noqa: SLF001


def _failure_of(error: Exception) -> Failure:
    """Return how a request failed that has raised an error before its response came."""
    if isinstance(error, _SILENCES):
        return Failure.SILENT
    if isinstance(error, _LOST) and not isinstance(error, _NEVER_SENT):
        return Failure.UNRESOLVED if any(map(_is_of_names, causes_of(error))) else Failure.UNREACHABLE
    return Failure.UNSENDABLE


def causes_of(error: BaseException | None) -> list[BaseException]:
    """Return an error and those it came from."""
    found: list[BaseException] = []
    while error is not None and error not in found and len(found) < _MAX_CAUSES:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _is_of_names(error: BaseException) -> bool:
    return isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror)


def _admit(request: httpx.Request, *, blocking: bool = False) -> Exchange:
    """Return the exchange that a request belongs to, and give the request its limits of time.

    `blocking` says that nothing else watches how long it takes.

    Raises:
        Elsewhere: it may not go where it goes.
        RequestFailed: one of its call has failed.
    """
    url = request.url
    host = f"[{url.host}]" if ":" in url.host else url.host
    origin = f"{url.scheme}://{host}" + (f":{url.port}" if url.port is not None else "")
    exchange = current_exchange.get()
    if exchange is None or origin != exchange.origin:
        raise Elsewhere(origin)
    if exchange.failure is not None:
        raise RequestFailed(exchange.failure)
    # What a caller of litellm may set has one number for all of them.
    seconds = exchange.limits.first_byte if blocking else None
    request.extensions["timeout"] = {
        "connect": exchange.limits.connect,
        "read": seconds,
        "write": seconds,
        "pool": seconds,
    }
    return exchange


class _Body(httpx.AsyncByteStream):
    """The body of a response, with limits on its pauses."""

    def __init__(self, stream: Any, exchange: Exchange, *, answers: bool) -> None:
        self._stream = stream
        self._exchange = exchange
        self._answers = answers

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange = self._exchange
        begun = False
        # The status of an error says enough where the rest of it does not come.
        end = None if self._answers else asyncio.get_running_loop().time() + _ERROR_BODY_SECONDS
        async with contextlib.aclosing(aiter(self._stream)) as pieces:
            while True:
                limit = asyncio.timeout(exchange.limits.idle if begun else exchange.limits.first_byte)
                if end is not None:
                    limit = asyncio.timeout_at(end)
                try:
                    async with limit:
                        piece = await anext(pieces, b"")
                except Exception as error:
                    if not self._answers:
                        return
                    if limit.expired():
                        raise exchange.fail(Failure.STALLED if begun else Failure.SILENT) from error
                    failed = exchange.fail(Failure.CUT)
                    if begun and exchange.streamed:
                        # What came is an answer where it says so itself, as its finish does.
                        return
                    raise failed from error
                if not piece:
                    return
                begun = True
                exchange.begun = exchange.begun or self._answers
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def _note_sent_bodies() -> None:
    write = aiohttp.BytesPayload.write_with_length

    async def noted(payload: aiohttp.BytesPayload, writer: Any, content_length: int | None) -> None:
        await write(payload, writer, content_length)
        if exchange := current_exchange.get():
            exchange.has_been_sent()

    aiohttp.BytesPayload.write_with_length = noted  # type: ignore[method-assign, assignment]


def _limit_bodies(max_bytes: int) -> None:
    """Have no response read further than the limit: litellm keeps whole answers, and lines, in memory."""
    unpacked = httpx.Response.aiter_bytes

    async def limited(response: httpx.Response, chunk_size: int | None = None) -> AsyncGenerator[bytes, None]:
        size = 0
        exchange = current_exchange.get()
        async with contextlib.aclosing(unpacked(response, chunk_size)) as pieces:  # type: ignore[type-var]
            try:
                async for piece in pieces:
                    size += len(piece)
                    if size > max_bytes:
                        raise TooLarge
                    if exchange is not None:
                        exchange.hear(piece)
                    yield piece
            except httpx.DecodingError as error:
                if exchange is not None and exchange.refused:
                    return
                raise (exchange.fail(Failure.CUT) if exchange else RequestFailed()) from error

    httpx.Response.aiter_bytes = limited  # type: ignore[method-assign, assignment]


def _never_retry() -> None:
    """Have the openai client send each request once, whatever litellm tells it: not all of litellm's ways do."""
    from openai._models import FinalRequestOptions

    FinalRequestOptions.get_max_retries = lambda _options, _most: 0  # type: ignore[method-assign, assignment]
