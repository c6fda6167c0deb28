"""What tests of MCP sources share: an adapter that may reach this machine, calls, and what they were told."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from services.common.egress import AddressPolicy
from services.common.http import EgressClient
from services.common.identity.principal import CredentialKind, Principal, Role
from services.orchestrator.domain.tool_source import (
    LocalCommand,
    McpEra,
    McpServer,
    McpTransport,
    SourceKind,
    ToolSourceSpec,
)
from services.orchestrator.tool_gateway.adapters.mcp.adapter import McpAdapter
from services.orchestrator.tool_gateway.ports import SourceAnswer, SourceQuestion, ToolCallRequest, ToolResult
from tests.support.http_emulator import Changes

LOOPBACK = AddressPolicy([ipaddress.ip_network("127.0.0.0/8")], setting="ALLOWED")


class Credentials:
    """Gives each group its own bearer token; a group without one is anonymous."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        self.renewed: dict[str, str] = {}

    async def headers(self, source: ToolSourceSpec, principal: Principal, url: str) -> dict[str, str]:
        token = self.tokens.get(principal.subject, self.tokens.get(principal.group_id))
        return {"authorization": f"Bearer {token}"} if token else {}

    def forget(self, source: ToolSourceSpec, principal: Principal) -> None:
        self.tokens |= self.renewed


class Told:
    """Keeps what a call tells of itself, and answers its questions."""

    def __init__(self, answer: SourceAnswer | None = None) -> None:
        self.answer = answer or SourceAnswer("accept", {"street": "Main Street", "name": "Ann"})
        self.sent_times = 0
        self.handles: list[str] = []
        self.steps: list[tuple[str, float | None]] = []
        self.questions: list[SourceQuestion] = []
        self.goes_on = False
        self.changes = Changes()

    async def sent(self) -> None:
        self.sent_times += 1
        self.changes.notify()

    async def handle(self, handle: str) -> None:
        self.handles.append(handle)
        self.changes.notify()

    async def progress(self, text: str, fraction: float | None = None) -> None:
        self.steps.append((text, fraction))
        self.changes.notify()

    async def ask(self, question: SourceQuestion, *, durable: bool = False) -> SourceAnswer:
        self.questions.append(question)
        self.changes.notify()
        return self.answer


def principal(group: str = "group", subject: str = "someone") -> Principal:
    return Principal(
        subject, group, Role.OPERATOR, False, CredentialKind.DEV, "", "execution", datetime(2030, 1, 1, tzinfo=UTC)
    )


def over_http(url: str, *, era: McpEra = McpEra.AUTO, sse: bool = False, **fields: Any) -> ToolSourceSpec:
    transport = McpTransport.SSE if sse else McpTransport.STREAMABLE_HTTP
    return ToolSourceSpec("billing", SourceKind.MCP, McpServer(url, transport, era), **fields)


def by_command(program: str, *arguments: str, environment: tuple[str, ...] = ()) -> ToolSourceSpec:
    return ToolSourceSpec("local", SourceKind.MCP_COMMAND, LocalCommand(program, arguments, environment))


def request(
    source: ToolSourceSpec,
    tool: str,
    arguments: dict[str, Any] | None = None,
    *,
    idempotent: bool = False,
    by: Principal | None = None,
) -> ToolCallRequest:
    return ToolCallRequest("call", source, tool, arguments or {}, by or principal(), "execution", idempotent)


class Caller:
    """An adapter with what it was built from."""

    def __init__(self, adapter: McpAdapter, credentials: Credentials) -> None:
        self.adapter = adapter
        self.credentials = credentials

    async def call(
        self, source: ToolSourceSpec, tool: str, arguments: dict[str, Any] | None = None, told: Told | None = None
    ) -> ToolResult:
        """Make a call whose tool is not idempotent."""
        return await self.adapter.call(request(source, tool, arguments), told or Told())


@asynccontextmanager
async def calling(policy: AddressPolicy = LOOPBACK, *, command_processes: int = 1024) -> AsyncIterator[Caller]:
    """Give an adapter for the time of a block."""
    egress = EgressClient(policy, connect_timeout=30)
    credentials = Credentials()
    adapter = McpAdapter(egress, credentials, command_processes=command_processes)
    try:
        yield Caller(adapter, credentials)
    finally:
        await adapter.close()
        await egress.close()


def once(*, first: Any, then: Any) -> Callable[..., Any]:
    """Return an answer that is `first` at its first time, and `then` later."""
    times = 0

    async def answer(*arguments: Any) -> Any:
        nonlocal times
        times += 1
        return await (first if times == 1 else then)(*arguments)

    return answer
