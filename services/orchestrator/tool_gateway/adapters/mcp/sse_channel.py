"""The transport of revision 2024-11-05: the server speaks on one stream and names the address that is posted to."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Self
from urllib.parse import urljoin

from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.mcp.endpoint import (
    JSON_TYPE,
    STREAM_TYPE,
    AnswerTooLarge,
    Endpoint,
    event_messages,
)
from services.orchestrator.tool_gateway.adapters.mcp.faults import HttpRefusal, SessionGone
from services.orchestrator.tool_gateway.adapters.mcp.sse import ServerEvent
from services.orchestrator.tool_gateway.ports import NotSent, OutcomeUnknown

_OPEN_SECONDS = 30.0
_POST_SECONDS = 30.0
_MAX_ADDRESS_BYTES = 4096


class SseChannel:
    """An open stream of a server, with the address that takes messages for it."""

    def __init__(self, events: AsyncGenerator[ServerEvent, None], target: Endpoint) -> None:
        self._events = events
        self._target = target

    @classmethod
    async def open(cls, endpoint: Endpoint) -> Self:
        """Open the stream and wait for the address.

        Raises:
            NotSent, CallRefused, HttpRefusal: the server cannot be used.
        """
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                response = await endpoint.send("GET", {"Accept": STREAM_TYPE})
                events = endpoint.events(response)
                async for event in events:
                    if event.name == "endpoint" and len(event.data) <= _MAX_ADDRESS_BYTES:
                        return cls(events, endpoint.sibling(urljoin(endpoint.url, event.data.decode(errors="replace"))))
        except (OutcomeUnknown, AnswerTooLarge, TimeoutError) as error:
            raise NotSent(f"{endpoint.origin} does not open a stream as the old SSE transport does") from error
        raise NotSent(f"{endpoint.origin} ended its stream before it named an address")

    def act_for(self, source: ToolSourceSpec, principal: Principal) -> None:
        """See `Link`."""
        self._target.act_for(source, principal)

    async def send(self, message: bytes) -> None:
        """See `Channel`."""
        try:
            (await self._target.send("POST", {"Content-Type": JSON_TYPE}, message, seconds=_POST_SECONDS)).close()
        except HttpRefusal as refusal:
            if refusal.status == 404:
                raise SessionGone(f"{self._target.origin} does not know the session any more") from refusal
            raise

    async def received(self) -> AsyncGenerator[dict[str, Any], None]:
        """See `Channel`."""
        async for event in self._events:
            for message in await event_messages(event, self._target.text):
                yield message

    async def close(self) -> None:
        """Leave the stream: the reader, which is ended next, closes it."""
        with contextlib.suppress(RuntimeError):
            await self._events.aclose()
