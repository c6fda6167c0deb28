"""Ways to servers: found out once, opened when they are needed, and used by one call at a time."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeVar

from services.common.cache import ExpiringCache
from services.orchestrator.domain.tool_source import LocalCommand, McpEra, McpServer, McpTransport
from services.orchestrator.tool_gateway.adapters.mcp.command_channel import CommandChannel
from services.orchestrator.tool_gateway.adapters.mcp.duplex import DuplexLink
from services.orchestrator.tool_gateway.adapters.mcp.endpoint import AnswerTooLarge, Endpoint
from services.orchestrator.tool_gateway.adapters.mcp.faults import UNSUPPORTED_VERSION, HttpRefusal, RpcError
from services.orchestrator.tool_gateway.adapters.mcp.http_links import SessionLink, StatelessLink
from services.orchestrator.tool_gateway.adapters.mcp.messages import Listener
from services.orchestrator.tool_gateway.adapters.mcp.peers import (
    MODERN_VERSIONS,
    LegacyPeer,
    ModernPeer,
    Peer,
    ServerFacts,
    discover,
    handshake,
)
from services.orchestrator.tool_gateway.adapters.mcp.sse_channel import SseChannel
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown

K = TypeVar("K")

_OPEN_SECONDS = 30.0
_PROBE_SECONDS = 5.0
_FACTS_SECONDS = 3600.0
_MAX_FACTS = 10_000
_IDLE_SECONDS = 60.0
_CLOSE_SECONDS = 15.0
_MAX_IDLE = 256
_MAX_IDLE_OF_ONE = 4


class ServerEras:
    """Which era servers are of, as found out: for an hour, and for each group by itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: ExpiringCache[tuple[str, str, McpEra], ServerFacts] = ExpiringCache(_MAX_FACTS, clock)

    async def facts(self, endpoint: Endpoint, era: McpEra) -> ServerFacts:
        """Return what is known of a server; for one of the legacy era that is no more than this.

        Raises:
            NotSent, CallRefused: it says nothing.
        """
        if era is McpEra.LEGACY:
            return ServerFacts(False, "")
        key = (endpoint.principal.group_id, endpoint.url, era)
        if (known := self._known.get(key)) is not None:
            return known
        found = await self._find_out(endpoint, era)
        self._known.put(key, found, self._clock() + _FACTS_SECONDS)
        return found

    def forget(self, endpoint: Endpoint) -> None:
        """Find out anew the next time: the server did not do as its era does."""
        for era in McpEra:
            self._known.forget((endpoint.principal.group_id, endpoint.url, era))

    async def _find_out(self, endpoint: Endpoint, era: McpEra) -> ServerFacts:
        try:
            async with before_call():
                found = await discover(StatelessLink(endpoint))
        except NotSent:
            # Some old servers fail with 5xx at what they do not know: the handshake will tell.
            if era is McpEra.MODERN:
                raise
            found = None
        if found is not None:
            return found
        return ServerFacts(True, MODERN_VERSIONS[0]) if era is McpEra.MODERN else ServerFacts(False, "")


@contextlib.asynccontextmanager
async def before_call() -> AsyncGenerator[None, None]:
    """Say of every failure that the call was not sent: what fails here only prepares it."""
    try:
        async with asyncio.timeout(_OPEN_SECONDS):
            yield
    except TimeoutError as error:
        raise NotSent(f"the server has not answered within {_OPEN_SECONDS:.0f} s") from error
    except (OutcomeUnknown, AnswerTooLarge) as error:
        raise NotSent(str(error) or "the server's answer is too large") from error
    except (RpcError, HttpRefusal) as error:
        raise CallRefused(f"the server refuses to be used: {error}", reason="TOOL_UNAVAILABLE") from error


class Pool(Generic[K]):
    """Peers that are kept for a while after use. Each is used by one call at a time."""

    def __init__(self) -> None:
        self._idle: dict[K, list[Peer]] = defaultdict(list)
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @contextlib.asynccontextmanager
    async def peer(
        self, key: K, connect: Callable[[], Awaitable[Peer]], *, new: bool = False
    ) -> AsyncGenerator[Peer, None]:
        """Lend a peer, an idle one if there is one that was not used up; `new` opens one in any case.

        Raises:
            NotSent, CallRefused: none can be opened.
        """
        peer = None if new else self._take(key)
        if peer is None:
            async with before_call():
                peer = await connect()
        healthy = False
        try:
            yield peer
            healthy = True
        except (RpcError, NotSent, CallRefused, HttpRefusal):
            healthy = True
            raise
        finally:
            self._put_back(key, peer, healthy=healthy)

    async def close(self) -> None:
        """Close all peers."""
        self._closed = True
        idle = [peer for peers in self._idle.values() for peer in peers]
        self._idle.clear()
        for peer in idle:
            self._close(peer)
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSE_SECONDS)

    def _take(self, key: K) -> Peer | None:
        peers = self._idle.get(key, [])
        while peers:
            peer = peers.pop()
            if peer.link.alive:
                return peer
            self._close(peer)
        self._idle.pop(key, None)
        return None

    def _put_back(self, key: K, peer: Peer, *, healthy: bool) -> None:
        full = len(self._idle.get(key, ())) >= _MAX_IDLE_OF_ONE or sum(map(len, self._idle.values())) >= _MAX_IDLE
        if self._closed or full or not healthy or not peer.link.alive:
            self._close(peer)
            return
        self._idle[key].append(peer)
        asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._expire, key, peer)

    def _close(self, peer: Peer) -> None:
        closing = asyncio.create_task(peer.link.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _expire(self, key: K, peer: Peer) -> None:
        """Close a peer that nobody has used since; one that was used meanwhile goes a little early."""
        peers = self._idle.get(key, [])
        if peer in peers and not self._closed:
            peers.remove(peer)
            if not peers:
                self._idle.pop(key, None)
            self._close(peer)


async def connect_http(endpoint: Endpoint, server: McpServer, facts: ServerFacts, idle: Listener) -> Peer:
    """Open a way to a server over HTTP; `idle` hears what it says between calls.

    Raises:
        RpcError, NotSent, CallRefused, HttpRefusal, OutcomeUnknown: it cannot be used.
    """
    if server.transport is McpTransport.SSE:
        return await _legacy(DuplexLink(await SseChannel.open(endpoint), idle))
    if facts.modern:
        return ModernPeer(StatelessLink(endpoint), facts)
    return await _legacy(SessionLink(endpoint, idle))


async def connect_command(command: LocalCommand, idle: Listener, max_bytes: int, max_processes: int) -> Peer:
    """Start a command and find out its era; for `max_bytes` and `max_processes` see `CommandChannel.start`.

    Raises:
        RpcError, NotSent, CallRefused, OutcomeUnknown: it cannot be used.
    """
    link = DuplexLink(await CommandChannel.start(command, max_bytes, max_processes), idle)
    facts = None
    try:
        # Programs of the legacy era may not answer at all, or end at what they do not know.
        with contextlib.suppress(TimeoutError, OutcomeUnknown):
            async with asyncio.timeout(_PROBE_SECONDS):
                facts = await discover(link)
    except BaseException:
        await link.close()
        raise
    if facts is not None:
        return ModernPeer(link, facts)
    if not link.alive:
        await link.close()
        link = DuplexLink(await CommandChannel.start(command, max_bytes, max_processes), idle)
    try:
        return await _legacy(link)
    except RpcError as error:
        # One that starts slowly has taken the question after all, and so the era.
        if error.code != UNSUPPORTED_VERSION:
            raise
    return await _modern(DuplexLink(await CommandChannel.start(command, max_bytes, max_processes), idle))


async def _modern(link: DuplexLink) -> ModernPeer:
    """Ask a command again that is known to be of the modern era, and wait for as long as it takes."""
    try:
        facts = await discover(link)
    except BaseException:
        await link.close()
        raise
    return ModernPeer(link, facts or ServerFacts(True, MODERN_VERSIONS[0]))


async def _legacy(link: SessionLink | DuplexLink) -> LegacyPeer:
    try:
        facts = await handshake(link)
        if isinstance(link, SessionLink):
            link.agreed(facts.version)
        await link.notify("notifications/initialized")
        if isinstance(link, SessionLink):
            link.hear()
    except BaseException:
        await link.close()
        raise
    return LegacyPeer(link, facts)
