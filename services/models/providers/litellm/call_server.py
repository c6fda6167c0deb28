"""The helper process's side of the pipes: runs calls of litellm and writes what comes of them.

The process shares nothing with the service but two pipes. Frames in both directions are four bytes of length
(big-endian), then JSON. It reads calls `{"id", "kind", "origin", "limits", "arguments"}` of kind "complete", "stream"
or "embed", then for each `{"id", "kind": "read", "bytes"}` when the service has taken so much of its documents, and
`{"id", "kind": "cancel"}`. It writes `{"ready"}` once, and for each call `{"id", "sent"}` once its request has left,
`{"id", "document"}`, once or many times, then `{"id", "end"}`, or `{"id", "error": {"status", "code", "message",
"headers", "refused", "answering", "begun", "said"}}`: "refused" says that the provider had answered with an error,
"answering" that it had with success, "begun" that some of the answer's body had come, and "said" is the end of that
body where it is text. A call that has been cancelled ends without a word. Keys are sent with each call and not kept,
and go to the call's origin alone.
"""

import asyncio
import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from services.common.containment.network_files import Identity, network_file_identities
from services.models.providers.litellm.exchange import (
    Elsewhere,
    Exchange,
    Failure,
    RequestFailed,
    TimeLimits,
    TooLarge,
    causes_of,
    current_exchange,
    guard_requests,
)
from services.models.providers.litellm.library import load_litellm

_LENGTH_BYTES = 4
# What a call may send before the service has taken some of it: a slow reader stops its own call and no other one.
_WINDOW_BYTES = 256 * 1024
_MAX_MESSAGE = 16_000
_NOT_UNDERSTOOD = (KeyError, IndexError, TypeError, AttributeError, ValueError, AssertionError)
# Calls with tools would pass through litellm's own MCP gateway, which needs another release of mcp than CrewAI does.
_WITHOUT_MCP = {"_skip_mcp_handler": True}


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

    def __init__(
        self, litellm: Any, writer: asyncio.StreamWriter, max_bytes: int, network_files: Mapping[str, Identity]
    ) -> None:
        """`network_files` are the files by which addresses are found, as this process may read them."""
        self._litellm = litellm
        self._writer = writer
        self._max_bytes = max_bytes
        self._calls: dict[int, Call] = {}
        self._network_files = network_files

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Serve calls until the service closes the pipe.

        Once a file by which addresses are found has been replaced no more are taken: this process may not read the new
        one. The calls in it go on.
        """
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
            elif network_file_identities() != self._network_files:
                self._write({"id": call_id, "leaving": True})
            else:
                self._calls[call_id] = call = Call()
                call.task = asyncio.create_task(self._run(call_id, call, frame))
                # Not at its end: one that is cancelled before it has begun comes to none.
                call.task.add_done_callback(functools.partial(self._forget, call_id))

    def _forget(self, call_id: int, _: asyncio.Task[None]) -> None:
        del self._calls[call_id]

    async def _run(self, call_id: int, call: Call, frame: dict[str, Any]) -> None:
        kind, arguments = frame["kind"], frame["arguments"]
        exchange = Exchange(
            frame["origin"],
            TimeLimits(**frame["limits"]),
            streamed=kind == "stream",
            note_sent=lambda: self._write({"id": call_id, "sent": True}),
        )
        current_exchange.set(exchange)
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
                if exchange.failure is not None and not call.sent:
                    raise RequestFailed(exchange.failure)
            self._write({"id": call_id, "end": True})
        except Exception as error:  # noqa: BLE001  # litellm raises what its providers' libraries raise
            self._write({"id": call_id, "error": self._describe(error, exchange)})

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

    def _describe(self, error: Exception, exchange: Exchange) -> dict[str, Any]:
        status = getattr(error, "status_code", None)
        causes = causes_of(error)
        code = "" if isinstance(status, int) else "unexpected"
        message = str(getattr(error, "message", error))[:_MAX_MESSAGE]
        if elsewhere := next((str(cause) for cause in causes if isinstance(cause, Elsewhere)), ""):
            code, message = "elsewhere", elsewhere
        elif any(isinstance(cause, TooLarge) for cause in causes):
            code = "too_large"
        elif exchange.failure is not None:
            # Whatever litellm makes of it.
            code = exchange.failure.value
            if exchange.failure is Failure.UNRESOLVED:
                message = urlsplit(exchange.origin).hostname or ""
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
            "refused": exchange.refused,
            "answering": exchange.answering,
            "begun": exchange.begun,
            "said": None if exchange.failure else exchange.said,
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
    for choice in document.get("choices") or ():
        message = choice.get("message") or choice.get("delta") or {}
        if refusal := (message.get("provider_specific_fields") or {}).get("refusal"):
            message["refusal"] = refusal
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


async def serve(inbound: int, outbound: int, max_bytes: int, network_files: Mapping[str, Identity]) -> None:
    """Serve the calls that come by one descriptor, and write to the other; see `Helper`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(inbound, "rb"))
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(outbound, "wb"))
    litellm = load_litellm()
    guard_requests(max_bytes)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    await Helper(litellm, writer, max_bytes, network_files).serve(reader)
