"""What tests of the tool gateway's adapters share: a call, its progress, credentials, and an HTTP API that records."""

from __future__ import annotations

import asyncio
import ipaddress
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from services.common.egress import AddressPolicy
from services.common.http import EgressClient
from services.common.identity.principal import CredentialKind, Principal, Role
from services.orchestrator.domain.tool_source import ToolSourceSpec
from services.orchestrator.tool_gateway.ports import CallRefused, SourceAnswer, SourceQuestion, ToolCallRequest
from tests.support.http_emulator import Changes, HttpEmulator

LOOPBACK = AddressPolicy([ipaddress.ip_network("127.0.0.0/8")], setting="COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS")
TOKEN = "tok-3c8d5f0a9b7e"


def principal_of(group_id: str = "acme", subject: str = "issuer|ann") -> Principal:
    return Principal(
        subject=subject,
        group_id=group_id,
        role=Role.EDITOR,
        platform_admin=False,
        credential_kind=CredentialKind.USER,
        session_id="",
        execution_id="run-1",
        expires_at=datetime(2100, 1, 1, tzinfo=UTC),
    )


def call_of(
    tool: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    source: ToolSourceSpec | None = None,
    idempotent: bool = False,
    config: Mapping[str, Any] | None = None,
    principal: Principal | None = None,
    call_id: str = "",
) -> ToolCallRequest:
    return ToolCallRequest(
        call_id=call_id or uuid.uuid4().hex,
        source=source,
        tool=tool,
        arguments=dict(arguments or {}),
        principal=principal or principal_of(),
        execution_id="run-1",
        idempotent=idempotent,
        config=dict(config or {}),
    )


@dataclass
class RecordedProgress:
    """Keeps what a call tells of itself; `at_sent` runs when it says that it sends."""

    sends: int = 0
    handles: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    goes_on: bool = False
    at_sent: Callable[[], Awaitable[None]] | None = None
    changes: Changes = field(default_factory=Changes)

    async def sent(self) -> None:
        self.sends += 1
        if self.at_sent is not None:
            await self.at_sent()

    async def handle(self, handle: str) -> None:
        self.handles.append(handle)
        self.changes.notify()

    async def progress(self, text: str, fraction: float | None = None) -> None:
        self.texts.append(text)
        self.changes.notify()

    async def ask(self, question: SourceQuestion, *, durable: bool = False) -> SourceAnswer:
        raise AssertionError("these tools ask nobody")


@dataclass
class FixedCredentials:
    """One token, for one origin."""

    origin: str
    token: str = TOKEN

    async def headers(self, source: ToolSourceSpec, principal: Principal, url: str) -> dict[str, str]:
        if not url.startswith(f"{self.origin}/"):
            raise CallRefused("the credential belongs elsewhere", reason="DESTINATION_NOT_ALLOWED")
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    def forget(self, source: ToolSourceSpec, principal: Principal) -> None:
        """There is no other one."""


@asynccontextmanager
async def egress_of(policy: AddressPolicy = LOOPBACK) -> AsyncIterator[EgressClient]:
    client = EgressClient(policy, connect_timeout=30)
    try:
        yield client
    finally:
        await client.close()


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RecordingApi(HttpEmulator):
    """Answers every path with what it is given for it, and keeps each request."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[RecordedRequest] = []
        self.answers: dict[str, Answer] = {}
        """By path, decoded; others are answered with what was sent."""
        self.changes = Changes()

    def install(self, app: web.Application) -> None:
        app.router.add_route("*", "/{path:.*}", self._serve)

    def answer(self, path: str, body: str | bytes = "", *, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("Content-Type", "application/json")
        data = body.encode() if isinstance(body, str) else body

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=data, status=status, headers=named)

        self.answers[path] = answer

    def drop(self, path: str) -> None:
        """Close the connection instead of answering."""

        async def answer(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.close()
            return web.Response()

        self.answers[path] = answer

    def hang(self, path: str) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        self.answers[path] = answer

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        recorded = RecordedRequest(
            request.method,
            request.raw_path,
            [(name.lower(), value) for name, value in request.headers.items()],
            data,
            list(request.query.items()),
        )
        self.requests.append(recorded)
        self.changes.notify()
        answer = self.answers.get(request.path)
        if answer is not None:
            return await answer(request)
        return web.json_response(
            {"method": request.method, "path": request.path, "body": data.decode(errors="replace")}
        )


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    method: str
    target: str
    """As it stood in the request line."""
    headers: list[tuple[str, str]]
    body: bytes
    query: list[tuple[str, str]]

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]
