"""An MCP server that does whatever a test wants of it, on the wire of either era."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.http_emulator import Changes, HttpEmulator

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]

PAY = {"name": "pay", "description": "Pay once.", "inputSchema": {"type": "object"}}


@dataclass
class Seen:
    """One request as it came."""

    http_method: str
    path: str
    headers: dict[str, str]
    """By names in lower case."""
    message: dict[str, Any]
    peer: Any = field(default=None, repr=False)

    @property
    def method(self) -> str:
        return str(self.message.get("method", ""))


def result(content: dict[str, Any]) -> Answer:
    """Answer with a result."""

    async def answer(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": content})

    return answer


def text_result(text: str) -> Answer:
    return result({"resultType": "complete", "content": [{"type": "text", "text": text}]})


def error(code: int, text: str = "no", *, status: int = 200, data: Any = None, with_id: bool = True) -> Answer:
    """Answer with a JSON-RPC error."""

    async def answer(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        body = {"code": code, "message": text} | ({"data": data} if data is not None else {})
        identity = message.get("id") if with_id else None
        return web.json_response({"jsonrpc": "2.0", "id": identity, "error": body}, status=status)

    return answer


def status(code: int, **headers: str) -> Answer:
    """Answer with a status and no message."""

    async def answer(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def raw(body: bytes, content_type: str = "application/json") -> Answer:
    """Answer with these bytes; `ID` in them becomes the id of the request."""

    async def answer(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        return web.Response(body=body.replace(b"ID", json.dumps(message["id"]).encode()), content_type=content_type)

    return answer


async def cut(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
    """Break the connection without a word."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def events(*pieces: bytes, end: str = "close") -> Answer:
    """Answer with a stream of these pieces; `ID` becomes the id of the request. `end` is close or cut."""

    async def answer(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        response = await stream(request)
        for piece in pieces:
            await response.write(piece.replace(b"ID", json.dumps(message["id"]).encode()))
        if end == "cut":
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


async def stream(request: web.Request) -> web.StreamResponse:
    """Begin a stream of events."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


def event(message: dict[str, Any]) -> bytes:
    """A message as an event."""
    return b"data: " + json.dumps(message).encode() + b"\n\n"


class McpEmulator(HttpEmulator):
    """Answers each JSON-RPC method as `on` says, at any path. It starts as a server of the modern era with one tool."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self.changes = Changes()
        self.abandoned = 0
        self.sent_bytes = 0
        self.documents: dict[str, Any] = {}
        """What is answered to GET, by path."""
        self.on: dict[str, Answer] = {
            "server/discover": result(
                {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
            ),
            "tools/list": result({"resultType": "complete", "tools": [PAY], "ttlMs": 0, "cacheScope": "private"}),
            "tools/call": text_result("paid"),
            "GET": status(405),
            "DELETE": status(200),
        }

    def legacy(self) -> McpEmulator:
        """Become a server of the legacy era, which gives out sessions `s1`, `s2` and so on."""
        sessions = 0

        async def initialize(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
            nonlocal sessions
            sessions += 1
            content = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "emulator"},
            }
            return web.json_response(
                {"jsonrpc": "2.0", "id": message["id"], "result": content}, headers={"Mcp-Session-Id": f"s{sessions}"}
            )

        self.on |= {
            "server/discover": error(-32000, "Bad Request: Missing session ID", status=400, with_id=False),
            "initialize": initialize,
            "notifications/initialized": status(202),
            "notifications/cancelled": status(202),
        }
        return self

    def install(self, app: web.Application) -> None:
        app.router.add_route("*", "/{path:.*}", self._handle)

    @property
    def address(self) -> str:
        return f"{self.url}/mcp"

    def times(self, method: str) -> int:
        """How often a method was called."""
        return sum(seen.method == method for seen in self.seen)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        message = json.loads(body) if body else {}
        peer = request.transport.get_extra_info("peername") if request.transport else None
        self.seen.append(
            Seen(
                request.method,
                request.path,
                {name.lower(): value for name, value in request.headers.items()},
                message,
                peer,
            )
        )
        self.changes.notify()
        if request.method == "GET" and request.path in self.documents:
            return web.json_response(self.documents[request.path])
        answer = self.on.get(message.get("method", ""), self.on.get(request.method, status(202)))
        try:
            return await answer(request, message)
        except BaseException:
            self.abandoned += 1
            self.changes.notify()
            raise
