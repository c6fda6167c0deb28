"""The helper process: only this file imports litellm.

It is run by its path and in isolation, so that it shares nothing with the service but two pipes. Frames in both
directions are four bytes of length (big-endian), then JSON. It reads calls `{"id", "kind", "arguments"}` of kind
"complete", "stream" or "embed", and `{"id", "kind": "cancel"}`; it writes `{"ready"}` once, and for each call
`{"id", "document"}`, once or many times, then `{"id", "end"}`, or
`{"id", "error": {"status", "code", "message", "headers"}}`.
Keys are sent with each call and not kept.
"""

import asyncio
import json
import logging
import os
import sys
from typing import Any

_LENGTH_BYTES = 4
# Calls with tools would pass through litellm's own MCP gateway, which needs another release of mcp than CrewAI does.
_WITHOUT_MCP = {"_skip_mcp_handler": True}


async def _read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        frame: dict[str, Any] = json.loads(await reader.readexactly(length))
    except asyncio.IncompleteReadError:
        return None
    return frame


class Helper:
    """Runs calls concurrently and writes their results."""

    def __init__(self, litellm: Any, writer: asyncio.StreamWriter) -> None:
        self._litellm = litellm
        self._writer = writer
        self._calls: dict[int, asyncio.Task[None]] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Serve calls until the service closes the pipe."""
        self._write({"ready": True})
        while (frame := await _read(reader)) is not None:
            call_id = frame["id"]
            if frame["kind"] == "cancel":
                if call := self._calls.get(call_id):
                    call.cancel()
                continue
            self._calls[call_id] = asyncio.create_task(self._run(call_id, frame["kind"], frame["arguments"]))

    async def _run(self, call_id: int, kind: str, arguments: dict[str, Any]) -> None:
        try:
            if kind == "embed":
                result = await self._litellm.aembedding(**arguments)
                self._write({"id": call_id, "document": result.model_dump(mode="json")})
            elif kind == "complete":
                result = await self._litellm.acompletion(**arguments, **_WITHOUT_MCP)
                self._write({"id": call_id, "document": result.model_dump(mode="json")})
            else:
                async for chunk in await self._litellm.acompletion(**arguments, **_WITHOUT_MCP, stream=True):
                    self._write({"id": call_id, "document": chunk.model_dump(mode="json")})
                    await self._writer.drain()
            self._write({"id": call_id, "end": True})
        except Exception as error:  # noqa: BLE001  # litellm raises what its providers' libraries raise
            self._write({"id": call_id, "error": self._describe(error)})
        finally:
            del self._calls[call_id]

    def _describe(self, error: Exception) -> dict[str, Any]:
        status = getattr(error, "status_code", None)
        code = ""
        if isinstance(error, self._litellm.ContextWindowExceededError):
            code = "context_length_exceeded"
        elif isinstance(error, self._litellm.APIConnectionError | self._litellm.Timeout):
            code = "unreachable"
        return {
            "status": status if isinstance(status, int) else None,
            "code": code,
            "message": str(getattr(error, "message", error)),
            "headers": _waiting_headers(error),
        }

    def _write(self, frame: dict[str, Any]) -> None:
        data = json.dumps(frame).encode()
        self._writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)


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


async def _main(inbound: int, outbound: int) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(inbound, "rb"))
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(outbound, "wb"))
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    # The service tries again, within the caller's deadline.
    litellm.num_retries = 0
    await Helper(litellm, asyncio.StreamWriter(transport, protocol, None, loop)).serve(reader)


if __name__ == "__main__":
    # What libraries print or read must not get between the frames; nothing they log may hold a prompt or a key.
    pipes = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    sys.stdin = sys.stdout = open(os.devnull, "w+")  # noqa: SIM115, PTH123
    logging.disable(logging.CRITICAL)
    asyncio.run(_main(*pipes))
