"""MCP servers as sources of tools."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from services.common.errors import FailedPrecondition, Unavailable
from services.common.http import EgressClient
from services.common.identity.principal import Principal
from services.common.schema_checks.checker import SchemaChecker
from services.orchestrator.domain.tool_source import (
    ListedTool,
    LocalCommand,
    McpServer,
    McpTransport,
    SourceEndpoint,
    ToolSourceSpec,
)
from services.orchestrator.tool_gateway.adapters.mcp.connections import (
    Pool,
    ServerEras,
    before_call,
    connect_command,
    connect_http,
)
from services.orchestrator.tool_gateway.adapters.mcp.endpoint import AnswerTooLarge, Endpoint
from services.orchestrator.tool_gateway.adapters.mcp.faults import (
    HEADER_MISMATCH,
    UNSUPPORTED_VERSION,
    CredentialRefused,
    HttpRefusal,
    RpcError,
    SessionGone,
)
from services.orchestrator.tool_gateway.adapters.mcp.listeners import CallListener, Watcher
from services.orchestrator.tool_gateway.adapters.mcp.lists import ListKey, ToolList, ToolLists
from services.orchestrator.tool_gateway.adapters.mcp.news import ListNews
from services.orchestrator.tool_gateway.adapters.mcp.peers import ModernPeer, Peer, ServerFacts
from services.orchestrator.tool_gateway.adapters.mcp.protected_resource import ProtectedResources
from services.orchestrator.tool_gateway.adapters.mcp.results import tool_result
from services.orchestrator.tool_gateway.adapters.mcp.tasks import task_in
from services.orchestrator.tool_gateway.adapters.mcp.tools import McpTool
from services.orchestrator.tool_gateway.pins import has_changed, is_pinned, refuse_changed
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    CredentialExpired,
    NotSent,
    OutcomeUnknown,
    RequestCredentials,
    ToolCallRequest,
    ToolResult,
)
from services.orchestrator.tool_gateway.rereads import Rereads
from services.orchestrator.tool_identity import digest_of

_RESOURCE_SECONDS = 60.0
_TOO_LARGE = (
    "The call was made, but its result has more than {} bytes and was not read. Do not repeat the call: ask for less, "
    "or for a page of it, where the tool can."
)


class Way:
    """How one principal reaches one source, for one call or listing."""

    def __init__(
        self,
        key: ListKey,
        pool: Pool[tuple[ListKey, SourceEndpoint]],
        connect: Callable[[], Awaitable[Peer]],
        forget_era: Callable[[], None],
        principal: Principal,
        source: ToolSourceSpec,
    ) -> None:
        self.key = key
        self._principal = principal
        self._source = source
        self._pool = pool
        self._connect = connect
        self.forget_era = forget_era

    @contextlib.asynccontextmanager
    async def peer(self, *, new: bool = False) -> AsyncGenerator[Peer, None]:
        """Lend a peer; see `Pool.peer`."""
        async with self._pool.peer((self.key, self._source.endpoint), self._connect, new=new) as peer:
            # Another principal may have used it, whose own time is over.
            peer.link.act_for(self._source, self._principal)
            yield peer


class McpAdapter:
    """Servers over HTTP and local commands, of both eras. See `ports.ToolAdapter`."""

    def __init__(
        self,
        egress: EgressClient,
        credentials: RequestCredentials,
        *,
        max_result_bytes: int = 16 * 1024 * 1024,
        command_processes: int = 1024,
    ) -> None:
        """`max_result_bytes` are read of an answer; a command may add `command_processes` to those of its user."""
        self._egress = egress
        self._credentials = credentials
        self._max_bytes = max_result_bytes
        self._command_processes = command_processes
        self._checker = SchemaChecker()
        self._eras = ServerEras()
        self._lists = ToolLists()
        self._rereads = Rereads()
        self._pool: Pool[tuple[ListKey, SourceEndpoint]] = Pool()
        self._news = ListNews()
        self._resources = ProtectedResources(egress)

    async def close(self) -> None:
        """End all sessions, commands and streams."""
        await self._news.close()
        await self._pool.close()
        await self._checker.close()

    async def list_tools(self, source: ToolSourceSpec, principal: Principal) -> list[ListedTool]:
        """See `ports.ToolAdapter`."""
        try:
            way = await self._way(source, principal)
            # Whoever asks wants to know what the server says now: calls alone go by lists that are kept.
            found = await self._read_list(way, source)
        except NotSent as error:
            raise Unavailable(str(error), reason=error.reason, retry_after=error.retry_after) from error
        except CredentialRefused as error:
            advice = await self._advice(source, error)
            raise FailedPrecondition(f"{error}{advice}", reason=error.reason) from error
        except CallRefused as error:
            raise FailedPrecondition(str(error), reason=error.reason) from error
        return [_listed(tool, source) for tool in found.tools.values()]

    async def _advice(self, source: ToolSourceSpec, error: CredentialRefused) -> str:
        if not isinstance(source.endpoint, McpServer):
            return ""
        advice = await self._resources.advice(source.endpoint.url, error.challenge)
        return f": {advice}" if advice else ""

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """See `ports.ToolAdapter`."""
        source = _source_of(request)
        way = await self._way(source, request.principal)
        listener = CallListener(progress, lambda: self._lists.forget(way.key), uuid.uuid4().hex)
        tool = await self._meant(way, source, request)
        async with listener.passing_on():
            return await self._call(way, source, tool, request, listener)

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        """See `ports.ToolAdapter`."""
        task_id = task_in(handle)
        if task_id is None:
            raise OutcomeUnknown("the server gave the call no handle by which its result could be found")
        try:
            return await self._resume(request, task_id, progress)
        except CredentialExpired:
            raise
        except (NotSent, CallRefused) as error:
            # What cannot be asked about was made all the same.
            raise OutcomeUnknown(f"the server cannot be asked for the result of the call: {error}") from error

    async def _resume(self, request: ToolCallRequest, task_id: str, progress: CallProgress) -> ToolResult:
        source = _source_of(request)
        way = await self._way(source, request.principal)
        listener = CallListener(progress, lambda: self._lists.forget(way.key), uuid.uuid4().hex)
        tool = await self._tool(way, source, request.tool, or_unlisted=True)
        async with listener.passing_on(), way.peer() as peer:
            if not isinstance(peer, ModernPeer):
                raise OutcomeUnknown("the server does not know tasks any more: it speaks an older revision now")
            return await self._result(peer, tool, request, peer.resume(task_id, listener))

    async def _call(
        self, way: Way, source: ToolSourceSpec, tool: McpTool, request: ToolCallRequest, listener: CallListener
    ) -> ToolResult:
        try:
            return await self._call_once(way, tool, request, listener)
        except SessionGone:
            # The server has said that it did not take the call: this is no second one.
            if is_pinned(request):
                # It was started anew, perhaps with other tools.
                self._lists.forget(way.key)
                tool = await self._meant(way, source, request)
            return await self._call_once(way, tool, request, listener, new=True)
        except _HeadersStale:
            self._lists.forget(way.key)
            return await self._call_once(way, await self._meant(way, source, request), request, listener)

    async def _call_once(
        self, way: Way, tool: McpTool, request: ToolCallRequest, listener: CallListener, *, new: bool = False
    ) -> ToolResult:
        async with way.peer(new=new) as peer:
            answer = peer.call(tool, request.arguments, listener, repeatable=request.idempotent)
            try:
                return await self._result(peer, tool, request, answer)
            except _RevisionGone:
                way.forget_era()
                raise
            except HttpRefusal as refusal:
                way.forget_era()
                raise CallRefused(f"the server refused the call: {refusal}", reason="TOOL_UNAVAILABLE") from refusal

    async def _result(
        self, peer: Peer, tool: McpTool, request: ToolCallRequest, answer: Awaitable[dict[str, Any]]
    ) -> ToolResult:
        async def read_resource(uri: str) -> dict[str, Any]:
            async with asyncio.timeout(_RESOURCE_SECONDS):
                return await peer.request("resources/read", {"uri": uri})

        try:
            return await tool_result(await answer, tool, self._checker, request.principal.group_id, read_resource)
        except RpcError as error:
            if error.code == HEADER_MISMATCH:
                raise _HeadersStale(f"the server wants other headers: {error.message}") from error
            if error.code == UNSUPPORTED_VERSION:
                raise _RevisionGone(f"the server does not speak this revision any more: {error.message}") from error
            return ToolResult(f"The server answered with an error: {error.message}", is_error=True)
        except AnswerTooLarge:
            return ToolResult(_TOO_LARGE.format(self._max_bytes), is_error=True)

    async def _meant(self, way: Way, source: ToolSourceSpec, request: ToolCallRequest) -> McpTool:
        """Return what is known of the tool that a call means.

        Raises:
            NotSent, CallRefused: the server does not list it or lists another one, or gives no list.
        """
        tool = await self._tool(way, source, request.tool)
        if has_changed(request, _listed(tool, source)) and self._rereads.begin(way.key, request):
            # Another process of the gateway may have read a newer list, whose changes may be accepted.
            self._lists.forget(way.key)
            tool = await self._tool(way, source, request.tool)
        refuse_changed(request, _listed(tool, source))
        return tool

    async def _tool(self, way: Way, source: ToolSourceSpec, name: str, *, or_unlisted: bool = False) -> McpTool:
        """Return what is known of a tool.

        Raises:
            NotSent, CallRefused: the server does not list it, or gives no list.
        """
        known = self._lists.known(way.key)
        if known is None or name not in known.tools:
            try:
                known = await self._read_list(way, source)
            except (NotSent, CallRefused):
                if not or_unlisted:
                    raise
        if known is not None and name in known.tools:
            return known.tools[name]
        if or_unlisted:
            return McpTool(ListedTool(name, "", {"type": "object"}))
        raise CallRefused(f'the server lists no tool "{name}" (any more)', reason="TOOL_NOT_FOUND")

    async def _read_list(self, way: Way, source: ToolSourceSpec) -> ToolList:
        try:
            return await self._read_list_once(way, source)
        except SessionGone:
            return await self._read_list_once(way, source, new=True)

    async def _read_list_once(self, way: Way, source: ToolSourceSpec, *, new: bool = False) -> ToolList:
        async with way.peer(new=new) as peer:
            try:
                changes = self._lists.changes
                async with before_call():
                    found = await self._lists.read(peer, source)
            except CallRefused:
                way.forget_era()
                raise
            self._lists.keep(way.key, found, changes)
            self._news.follow(peer, found, way.key, lambda: self._lists.forget(way.key))
            return found

    async def _way(self, source: ToolSourceSpec, principal: Principal) -> Way:
        endpoint = source.endpoint
        if isinstance(endpoint, LocalCommand):
            return self._way_to_command(endpoint, source, principal)
        assert isinstance(endpoint, McpServer)
        return await self._way_over_http(endpoint, source, principal)

    async def _way_over_http(self, server: McpServer, source: ToolSourceSpec, principal: Principal) -> Way:
        address = Endpoint(self._egress, self._credentials, source, principal, server.url, self._max_bytes)
        key = ListKey(principal.group_id, source.name, server.url, await address.credential_digest())
        idle = Watcher(lambda: self._lists.forget(key))

        async def connect() -> Peer:
            if server.transport is McpTransport.SSE:
                return await connect_http(address, server, ServerFacts(False, ""), idle)
            return await connect_http(address, server, await self._eras.facts(address, server.era), idle)

        return Way(key, self._pool, connect, lambda: self._eras.forget(address), principal, source)

    def _way_to_command(self, command: LocalCommand, source: ToolSourceSpec, principal: Principal) -> Way:
        key = ListKey(principal.group_id, source.name, repr(command), "command")
        idle = Watcher(lambda: self._lists.forget(key))

        async def connect() -> Peer:
            return await connect_command(command, idle, self._max_bytes, self._command_processes)

        return Way(key, self._pool, connect, lambda: None, principal, source)


class _HeadersStale(NotSent):
    """The server refused the call for its headers: its list has changed."""


class _RevisionGone(NotSent):
    """The server refused the call for the revision of the protocol."""


def _listed(tool: McpTool, source: ToolSourceSpec) -> ListedTool:
    """Return a tool as the source lists it: at another address it is another one."""
    server = source.endpoint
    if not isinstance(server, McpServer):
        return tool.listed
    return replace(tool.listed, call_digest=digest_of(server.url), call=server.url)


def _source_of(request: ToolCallRequest) -> ToolSourceSpec:
    assert request.source is not None
    return request.source
