"""Lists of tools: read page by page, and kept for as long as their servers allow."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from services.common.cache import ExpiringCache
from services.orchestrator.domain.tool_source import ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.mcp.peers import Peer
from services.orchestrator.tool_gateway.adapters.mcp.tools import (
    MAX_LIST_SIZE,
    MAX_LISTED,
    MAX_TOOLS,
    BadTool,
    McpTool,
    tool_of,
    within_limit,
)
from services.orchestrator.tool_gateway.ports import CallRefused

logger = structlog.get_logger(__name__)

_MAX_PAGES = 200
_MAX_CURSOR_CHARACTERS = 4096
_MAX_FRESH_SECONDS = 24 * 3600.0
_KNOWN_SECONDS = 60.0
"""How long calls go by a list of which its server does not say how long it holds."""
_MAX_KEPT_SIZE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ListKey:
    """Whose list it is. Two groups share none, and two credentials only what a server calls public."""

    group_id: str
    source: str
    url: str
    credential: str


@dataclass(frozen=True, slots=True)
class ToolList:
    """The tools of a server, with the monotonic time until which they are fresh."""

    tools: dict[str, McpTool]
    fresh_until: float
    public: bool = False

    @property
    def size(self) -> int:
        """How much its schemas are."""
        return sum(tool.size for tool in self.tools.values())


class ToolLists:
    """The lists of all sources, bounded by what they hold."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changes = 0
        self._kept: ExpiringCache[ListKey, ToolList] = ExpiringCache(
            _MAX_KEPT_SIZE, clock, weigh=lambda kept: 1024 * (len(kept.tools) + 1) + kept.size
        )

    def known(self, key: ListKey) -> ToolList | None:
        """Return a list that its server lets us go by, or that is some seconds old."""
        return self._kept.get(key) or self._kept.get(_shared(key))

    def keep(self, key: ListKey, found: ToolList, changes: int) -> None:
        """Keep a list, unless its server has told since `changes` that it has changed."""
        if changes != self._changes:
            return
        self._kept.forget(key)
        self._kept.forget(_shared(key))
        until = max(found.fresh_until, self._clock() + _KNOWN_SECONDS)
        self._kept.put(_shared(key) if found.public else key, found, until)

    @property
    def changes(self) -> int:
        """How many changes of lists have been told of."""
        return self._changes

    def forget(self, key: ListKey) -> None:
        """Read the list anew the next time."""
        self._changes += 1
        self._kept.forget(key)
        self._kept.forget(_shared(key))

    async def read(self, peer: Peer, source: ToolSourceSpec) -> ToolList:
        """Read a list from its server.

        Raises:
            CallRefused: it is longer than is read.
            RpcError and what `Peer.request` raises: there is none.
        """
        reading = _Reading(source, modern=peer.facts.modern)
        cursors: set[str] = set()
        params: dict[str, Any] = {}
        fresh, public = _MAX_FRESH_SECONDS, True
        for _ in range(_MAX_PAGES):
            page = await peer.request("tools/list", params)
            fresh = min(fresh, _ttl(page) if peer.facts.modern else 0.0)
            public = public and page.get("cacheScope") == "public"
            tools = page.get("tools")
            if not isinstance(tools, list):
                raise CallRefused("the server's list of tools has no tools", reason="TOOL_UNAVAILABLE")
            reading.take(tools)
            cursor = page.get("nextCursor")
            if not cursor:
                break
            if not isinstance(cursor, str) or len(cursor) > _MAX_CURSOR_CHARACTERS or cursor in cursors:
                raise CallRefused("the server's list of tools does not come to an end", reason="TOOL_UNAVAILABLE")
            cursors.add(cursor)
            params = {"cursor": cursor}
        else:
            raise CallRefused("the server's list of tools does not come to an end", reason="TOOL_UNAVAILABLE")
        return ToolList(reading.tools(), self._clock() + fresh, public)


def _shared(key: ListKey) -> ListKey:
    return ListKey(key.group_id, key.source, key.url, "")


def _ttl(page: dict[str, Any]) -> float:
    ttl = page.get("ttlMs")
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or ttl <= 0:
        return 0.0
    return min(ttl / 1000, _MAX_FRESH_SECONDS)


class _Reading:
    """The tools of a list as its pages come."""

    def __init__(self, source: ToolSourceSpec, *, modern: bool) -> None:
        self._source = source
        self._modern = modern
        self._tools: dict[str, McpTool] = {}
        self._seen = 0
        self._size = 0

    def take(self, entries: list[Any]) -> None:
        """Take a page.

        Raises:
            CallRefused: the list is longer than is read.
        """
        self._seen += len(entries)
        if self._seen > MAX_LISTED:
            raise CallRefused(
                f"the server lists more than {MAX_LISTED} tools, which are not read", reason="TOOL_UNAVAILABLE"
            )
        for entry in entries:
            try:
                tool = tool_of(entry, modern=self._modern)
            except BadTool as fault:
                name = entry.get("name") if isinstance(entry, dict) else None
                logger.warning("mcp_tool_left_out", source=self._source.name, tool=str(name)[:128], why=str(fault))
                continue
            self._size += tool.size
            self._tools.setdefault(tool.listed.name, tool)
        if self._size > MAX_LIST_SIZE:
            raise CallRefused(
                f"the schemas of the server's tools are larger than {MAX_LIST_SIZE} bytes", reason="TOOL_UNAVAILABLE"
            )

    def tools(self) -> dict[str, McpTool]:
        """Return the tools by their names.

        Raises:
            CallRefused: they are more than a source has.
        """
        chosen = within_limit(list(self._tools.values()), self._source)
        if len(chosen) > MAX_TOOLS:
            raise CallRefused(
                f"the server lists {len(chosen)} tools, a source has at most {MAX_TOOLS}: choose with allowed_tools",
                reason="TOOL_UNAVAILABLE",
            )
        return {tool.listed.name: tool for tool in chosen}
