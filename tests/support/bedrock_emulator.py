"""Amazon Bedrock on loopback: Converse, whole and in AWS's binary form of events, and what embeds."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.http_emulator import HttpEmulator

_TEXT = 7


@dataclass
class Fault:
    """An error: with a status in the place of an answer, without one in the middle of a stream."""

    kind: str
    message: str
    status: int | None = None


@dataclass
class Call:
    """One call as it arrived. The headers hold the signature or the key, so they stay out of the repr."""

    model: str
    stream: bool
    body: Any = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    """Names in lower case."""


@dataclass
class ToolUse:
    """A call of a tool."""

    id: str
    name: str
    input: dict[str, Any]


@dataclass
class Thought:
    """What the model thought before its answer."""

    text: str
    signature: str


class BedrockEmulator(HttpEmulator):
    """Says `text` to whoever comes, or calls tools, or fails as `fault` says, and keeps a log."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.text = "Bonjour tout le monde"
        self.fault: Fault | None = None
        self.tools: list[ToolUse] = []
        self.thought: Thought | None = None
        self.stop_reason = "end_turn"

    def install(self, app: web.Application) -> None:
        app.router.add_post("/model/{model}/converse", self._whole)
        app.router.add_post("/model/{model}/converse-stream", self._stream)
        app.router.add_post("/model/{model}/invoke", self._embed)

    async def _whole(self, request: web.Request) -> web.Response:
        await self._log(request, stream=False)
        if self.fault is not None:
            return _failed(self.fault)
        content: list[dict[str, Any]] = []
        if self.thought is not None:
            thought = {"text": self.thought.text, "signature": self.thought.signature}
            content.append({"reasoningContent": {"reasoningText": thought}})
        content.append({"text": self.text})
        content += [{"toolUse": {"toolUseId": tool.id, "name": tool.name, "input": tool.input}} for tool in self.tools]
        return web.json_response(
            {
                "output": {"message": {"role": "assistant", "content": content}},
                "stopReason": self._stop_reason,
                "usage": {"inputTokens": 12, "outputTokens": 4, "totalTokens": 16},
                "metrics": {"latencyMs": 1},
            }
        )

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        await self._log(request, stream=True)
        if self.fault is not None and self.fault.status is not None:
            return _failed(self.fault)
        response = web.StreamResponse(headers={"Content-Type": "application/vnd.amazon.eventstream"})
        await response.prepare(request)
        await response.write(event("messageStart", {"role": "assistant"}))
        if self.thought is not None:
            for said in ({"text": self.thought.text}, {"signature": self.thought.signature}):
                delta = {"contentBlockIndex": 0, "delta": {"reasoningContent": said}}
                await response.write(event("contentBlockDelta", delta))
            await response.write(event("contentBlockStop", {"contentBlockIndex": 0}))
        for word in self.text.split():
            delta = {"contentBlockIndex": 0, "delta": {"text": f"{word} "}}
            await response.write(event("contentBlockDelta", delta))
        if self.fault is not None:
            await response.write(event(self.fault.kind, {"message": self.fault.message}, what="exception"))
            return response
        await response.write(event("contentBlockStop", {"contentBlockIndex": 0}))
        for index, tool in enumerate(self.tools, start=1):
            start = {"toolUse": {"toolUseId": tool.id, "name": tool.name}}
            await response.write(event("contentBlockStart", {"contentBlockIndex": index, "start": start}))
            arguments = json.dumps(tool.input)
            for piece in (arguments[:4], arguments[4:]):
                delta = {"contentBlockIndex": index, "delta": {"toolUse": {"input": piece}}}
                await response.write(event("contentBlockDelta", delta))
            await response.write(event("contentBlockStop", {"contentBlockIndex": index}))
        await response.write(event("messageStop", {"stopReason": self._stop_reason}))
        usage = {"inputTokens": 12, "outputTokens": 4, "totalTokens": 16}
        await response.write(event("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}))
        return response

    async def _embed(self, request: web.Request) -> web.Response:
        await self._log(request, stream=False)
        if self.fault is not None:
            return _failed(self.fault)
        body = self.calls[-1].body
        if "texts" in body:
            return web.json_response({"embeddings": [_vector(text) for text in body["texts"]]})
        return web.json_response({"embedding": _vector(body["inputText"]), "inputTextTokenCount": 3})

    @property
    def _stop_reason(self) -> str:
        return "tool_use" if self.tools else self.stop_reason

    async def _log(self, request: web.Request, *, stream: bool) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.calls.append(Call(request.match_info["model"], stream, await request.json(), headers))


def event(kind: str, payload: dict[str, Any], *, what: str = "event") -> bytes:
    """One message of an event stream: lengths, headers and payload, each with its checksum."""
    headers = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", _TEXT, len(value)) + value.encode()
        for name, value in (
            (f":{what}-type", kind),
            (":content-type", "application/json"),
            (":message-type", what),
        )
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack(">I", zlib.crc32(message))


def _vector(text: str) -> list[float]:
    return [float(len(text)), 1.0]


def _failed(fault: Fault) -> web.Response:
    return web.json_response(
        {"message": fault.message}, status=fault.status or 500, headers={"x-amzn-ErrorType": fault.kind}
    )
