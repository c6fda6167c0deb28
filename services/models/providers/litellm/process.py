"""The helper process: only this file imports litellm.

It is run by its path and in isolation, so that it shares nothing with the service but two pipes. Its one argument is
the largest answer in bytes. Frames in both directions are four bytes of length (big-endian), then JSON. It reads calls
`{"id", "kind", "origin", "arguments"}` of kind "complete", "stream" or "embed", then for each
`{"id", "kind": "read", "bytes"}` when the service has taken so much of its documents, and `{"id", "kind": "cancel"}`.
It writes `{"ready"}` once, and for each call `{"id", "document"}`, once or many times, then `{"id", "end"}`, or
`{"id", "error": {"status", "code", "message", "headers"}}`. A call that has been cancelled ends without a word.
Keys are sent with each call and not kept, and go to the call's origin alone.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

_LENGTH_BYTES = 4
# What a call may send before the service has taken some of it: a slow reader stops its own call and no other one.
_WINDOW_BYTES = 256 * 1024
_START_NICENESS = 10
_MAX_MESSAGE = 16_000
_MAX_CAUSES = 10
_NOT_UNDERSTOOD = (KeyError, IndexError, TypeError, AttributeError, ValueError, AssertionError)
# Calls with tools would pass through litellm's own MCP gateway, which needs another release of mcp than CrewAI does.
_WITHOUT_MCP = {"_skip_mcp_handler": True}
# litellm calls these a regular end, and so loses that the provider failed.
_FAILED_FINISHES = (
    "ERROR",
    "error",
    "network_error",
    "MALFORMED_FUNCTION_CALL",
    "MALFORMED_RESPONSE",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE",
)
# The statuses that Anthropic's errors have where they are no event of a stream.
_ANTHROPIC_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


# Where the call of this task may be sent; empty outside of one.
_origin: ContextVar[str] = ContextVar("origin", default="")


class Elsewhere(Exception):
    """A request would have gone to another origin than its call's; the text is that origin."""


class TooLarge(Exception):
    """An answer is larger than the limit."""


@dataclass(slots=True)
class Call:
    """A call under way."""

    task: asyncio.Task[None] | None = None
    sent: int = 0
    unread: int = 0
    """Bytes the service has not taken yet."""
    room: asyncio.Event = field(default_factory=asyncio.Event)


async def _read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        frame: dict[str, Any] = json.loads(await reader.readexactly(length))
    except asyncio.IncompleteReadError:
        return None
    return frame


class Helper:
    """Runs calls concurrently and writes their results."""

    def __init__(self, litellm: Any, writer: asyncio.StreamWriter, max_bytes: int) -> None:
        self._litellm = litellm
        self._writer = writer
        self._max_bytes = max_bytes
        self._calls: dict[int, Call] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Serve calls until the service closes the pipe."""
        self._write({"ready": True})
        while (frame := await _read(reader)) is not None:
            call_id, kind = frame["id"], frame["kind"]
            call = self._calls.get(call_id)
            if kind == "cancel":
                if call is not None and call.task is not None:
                    call.task.cancel()
            elif kind == "read":
                if call is not None:
                    call.unread -= frame["bytes"]
                    call.room.set()
            else:
                self._calls[call_id] = call = Call()
                call.task = asyncio.create_task(self._run(call_id, call, frame))

    async def _run(self, call_id: int, call: Call, frame: dict[str, Any]) -> None:
        kind, arguments = frame["kind"], frame["arguments"]
        _origin.set(frame["origin"])
        try:
            if kind == "embed":
                await self._send(call_id, call, _document(await self._litellm.aembedding(**arguments)))
            elif kind == "complete":
                answer = await self._litellm.acompletion(**arguments, **_WITHOUT_MCP)
                await self._send(call_id, call, _document(answer))
            else:
                chunks = await self._litellm.acompletion(**arguments, **_WITHOUT_MCP, stream=True)
                try:
                    async for chunk in chunks:
                        await self._send(call_id, call, _chunk_document(chunks, chunk))
                finally:
                    # A call that ends while it waits for its reader has to let go of its connection too.
                    if close := getattr(chunks, "aclose", None):
                        await close()
            self._write({"id": call_id, "end": True})
        except Exception as error:  # noqa: BLE001  # litellm raises what its providers' libraries raise
            self._write({"id": call_id, "error": self._describe(error)})
        finally:
            del self._calls[call_id]

    async def _send(self, call_id: int, call: Call, document: dict[str, Any]) -> None:
        data = json.dumps({"id": call_id, "document": document}).encode()
        call.sent += len(data)
        if call.sent > self._max_bytes:
            raise TooLarge
        while call.unread >= _WINDOW_BYTES:
            call.room.clear()
            await call.room.wait()
        call.unread += len(data)
        self._writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        await self._writer.drain()
        # Chunks that have come already are read without a pause: other calls, and the word to stop, get their turn.
        await asyncio.sleep(0)

    def _describe(self, error: Exception) -> dict[str, Any]:
        status = getattr(error, "status_code", None)
        causes = _causes(error)
        code = "" if isinstance(status, int) else "unexpected"
        message = str(getattr(error, "message", error))[:_MAX_MESSAGE]
        if elsewhere := next((str(cause) for cause in causes if isinstance(cause, Elsewhere)), ""):
            code, message = "elsewhere", elsewhere
        elif any(isinstance(cause, TooLarge) for cause in causes):
            code = "too_large"
        elif isinstance(error, self._litellm.ContextWindowExceededError):
            code = "context_length_exceeded"
        elif isinstance(error, self._litellm.UnsupportedParamsError):
            code = "unsupported_parameters"
        elif isinstance(error, self._litellm.Timeout):
            code = "unreachable"
        elif isinstance(error, self._litellm.APIConnectionError):
            # litellm's name for what it did not expect too: an answer it cannot read is no lost connection.
            code = "unexpected" if any(isinstance(cause, _NOT_UNDERSTOOD) for cause in causes) else "unreachable"
        return {
            "status": status if isinstance(status, int) else None,
            "code": code,
            "message": message,
            "headers": _waiting_headers(error),
        }

    def _write(self, frame: dict[str, Any]) -> None:
        data = json.dumps(frame).encode()
        self._writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)


def _document(answer: Any) -> dict[str, Any]:
    """Return an answer without the counts of nothing that litellm has where the provider counted nothing."""
    document: dict[str, Any] = answer.model_dump(mode="json")
    usage = document.get("usage")
    if isinstance(usage, dict) and not any(usage.get(name) for name in ("prompt_tokens", "completion_tokens")):
        document["usage"] = None
    return document


def _chunk_document(stream: Any, chunk: Any) -> dict[str, Any]:
    """Return a chunk without what litellm made up: tokens that it counted itself, an end of what was broken off."""
    document = _document(chunk)
    if document.get("usage") and not any(getattr(known, "usage", None) for known in getattr(stream, "chunks", [chunk])):
        document["usage"] = None
    words = ("received_finish_reason", "intermittent_finish_reason")
    if hasattr(stream, words[0]) and not any(getattr(stream, word, None) for word in words):
        for choice in document.get("choices") or ():
            choice["finish_reason"] = None
    return document


def _causes(error: BaseException | None) -> list[BaseException]:
    """Return an error and those it came from."""
    found: list[BaseException] = []
    while error is not None and error not in found and len(found) < _MAX_CAUSES:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _waiting_headers(error: Exception) -> dict[str, str]:
    """Return the headers of an error's response that say how long to wait."""
    found: dict[str, str] = {}
    for source in (getattr(error, "response", None), error):
        headers = getattr(source, "headers", None)
        for name in ("retry-after-ms", "Retry-After"):
            value = headers.get(name) or headers.get(name.lower()) if headers is not None else None
            if value and name not in found:
                found[name] = str(value)
    headers = getattr(error, "litellm_response_headers", None) or {}
    for name in ("retry-after-ms", "Retry-After"):
        value = headers.get(name) or headers.get(name.lower()) or headers.get(f"llm_provider-{name.lower()}")
        if value and name not in found:
            found[name] = str(value)
    return found


def _import_litellm(max_bytes: int) -> Any:
    """Import litellm in a thread of low priority: the seconds it takes are not taken from the services that start."""
    found: list[Any] = []

    def load() -> None:
        if sys.platform == "linux":
            # There, threads have priorities of their own.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _START_NICENESS)
        import litellm

        found.append(litellm)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    (litellm,) = found
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    # The service tries again, within the caller's deadline.
    litellm.num_retries = 0
    # An answer may say the same a hundred times.
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize
    _keep_failed_finishes()
    _keep_openrouters_signatures()
    _keep_anthropics_errors()
    _limit_bodies(max_bytes)
    _keep_to_the_origin()
    return litellm


def _keep_failed_finishes() -> None:
    from litellm.litellm_core_utils import core_helpers

    words: dict[str, Any] = core_helpers._FINISH_REASON_MAP  # noqa: SLF001  # no setting says so
    for word in _FAILED_FINISHES:
        words[word] = word.lower()
        words[word.lower()] = word.lower()


def _keep_openrouters_signatures() -> None:
    """Pass on pieces of a stream that hold nothing but `reasoning_details`: the signatures come in such."""
    from litellm.llms.openrouter.chat.transformation import OpenRouterChatCompletionStreamingHandler

    reader: Any = OpenRouterChatCompletionStreamingHandler
    parse = reader.chunk_parser

    def parse_with_reasoning(handler: Any, chunk: dict[str, Any]) -> Any:
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if delta.get("reasoning_details") and delta.get("reasoning") is None:
                delta["reasoning"] = ""
        return parse(handler, chunk)

    reader.chunk_parser = parse_with_reasoning


def _keep_anthropics_errors() -> None:
    """Pass on Anthropic's error events whole: litellm keeps their words alone, as an outage of status 500."""
    from litellm.llms.anthropic.chat.handler import ModelResponseIterator
    from litellm.llms.anthropic.common_utils import AnthropicError

    reader: Any = ModelResponseIterator
    parse = reader.chunk_parser

    def parse_with_errors(iterator: Any, chunk: dict[str, Any]) -> Any:
        if chunk.get("type") == "error" and isinstance(error := chunk.get("error"), dict):
            raise AnthropicError(_ANTHROPIC_STATUSES.get(str(error.get("type")), 500), json.dumps(chunk))
        return parse(iterator, chunk)

    reader.chunk_parser = parse_with_errors


def _limit_bodies(max_bytes: int) -> None:
    """Have no response read further than the limit: litellm keeps whole answers, and lines, in memory."""
    import httpx

    unpacked = httpx.Response.aiter_bytes

    async def limited(response: Any, chunk_size: int | None = None) -> Any:
        size = 0
        async with contextlib.aclosing(unpacked(response, chunk_size)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                size += len(piece)
                if size > max_bytes:
                    raise TooLarge
                yield piece

    httpx.Response.aiter_bytes = limited  # type: ignore[method-assign, assignment]


def _keep_to_the_origin() -> None:
    """Have no request leave for another origin than its call's, redirects included: it would carry the call's key.

    litellm's own list of addresses decides where a call goes, and some options and names of models change it.
    """
    import httpx

    def check(request: Any) -> None:
        url = request.url
        host = f"[{url.host}]" if ":" in url.host else url.host
        origin = f"{url.scheme}://{host}" + (f":{url.port}" if url.port is not None else "")
        if origin != _origin.get():
            raise Elsewhere(origin)

    send, send_blocking = httpx.AsyncClient._send_single_request, httpx.Client._send_single_request  # noqa: SLF001

    async def checked(client: Any, request: Any) -> Any:
        check(request)
        return await send(client, request)

    def checked_blocking(client: Any, request: Any) -> Any:
        check(request)
        return send_blocking(client, request)

    httpx.AsyncClient._send_single_request = checked  # type: ignore[method-assign, assignment]  # noqa: SLF001
    httpx.Client._send_single_request = checked_blocking  # type: ignore[method-assign, assignment]  # noqa: SLF001


async def _main(inbound: int, outbound: int, max_bytes: int) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(inbound, "rb"))
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(outbound, "wb"))
    litellm = _import_litellm(max_bytes)
    await Helper(litellm, asyncio.StreamWriter(transport, protocol, None, loop), max_bytes).serve(reader)


if __name__ == "__main__":
    # What libraries print or read must not get between the frames; nothing they log may hold a prompt or a key.
    pipes = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    sys.stdin = sys.stdout = open(os.devnull, "w+")  # noqa: SIM115, PTH123
    logging.disable(logging.CRITICAL)
    asyncio.run(_main(*pipes, int(sys.argv[1])))
