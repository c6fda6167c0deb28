"""News of servers of the modern era: they tell on a stream of its own that their list of tools has changed."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from services.common.background import BackgroundTasks
from services.common.tracing.spans import leave_trace
from services.orchestrator.tool_gateway.adapters.mcp.endpoint import AnswerTooLarge
from services.orchestrator.tool_gateway.adapters.mcp.faults import HttpRefusal, RpcError
from services.orchestrator.tool_gateway.adapters.mcp.http_links import StatelessLink
from services.orchestrator.tool_gateway.adapters.mcp.listeners import Watcher
from services.orchestrator.tool_gateway.adapters.mcp.lists import ListKey, ToolList
from services.orchestrator.tool_gateway.adapters.mcp.peers import Peer
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown

_MAX_STREAMS = 64
_WORTHWHILE_SECONDS = 30.0
"""A list that is fresh for less is read anew soon enough."""


class ListNews:
    """Streams that are followed for as long as the lists are fresh which they are about."""

    def __init__(self) -> None:
        self._followed: set[ListKey] = set()
        self._background = BackgroundTasks()

    def follow(self, peer: Peer, found: ToolList, key: ListKey, changed: Callable[[], None]) -> None:
        """Follow the news of a server if it has any; `changed` is called when its list has changed.

        Where they cannot be followed, the list is fresh for as long as the server said.
        """
        tools = peer.facts.capabilities.get("tools")
        offered = isinstance(tools, dict) and tools.get("listChanged") is True
        seconds = found.fresh_until - time.monotonic()
        if not (offered and isinstance(peer.link, StatelessLink) and seconds > _WORTHWHILE_SECONDS):
            return
        if key not in self._followed and len(self._followed) < _MAX_STREAMS:
            self._followed.add(key)
            self._background.start(self._follow(peer, seconds, key, changed))

    async def close(self) -> None:
        """Leave all streams."""
        await self._background.stop()

    async def _follow(self, peer: Peer, seconds: float, key: ListKey, changed: Callable[[], None]) -> None:
        leave_trace()

        def heard() -> None:
            changed()
            raise _Heard

        try:
            with contextlib.suppress(
                _Heard, TimeoutError, RpcError, NotSent, CallRefused, OutcomeUnknown, HttpRefusal, AnswerTooLarge
            ):
                async with asyncio.timeout(seconds):
                    await peer.request(
                        "subscriptions/listen", {"notifications": {"toolsListChanged": True}}, Watcher(heard)
                    )
        finally:
            self._followed.discard(key)


class _Heard(Exception):
    """What was waited for has been told."""
