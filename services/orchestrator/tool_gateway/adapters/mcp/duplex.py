"""Ways to a server on which messages go both ways at any time: the old SSE transport and standard streams."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from services.common.background import BackgroundTasks
from services.common.http import BeforeSend
from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.mcp.endpoint import AnswerTooLarge
from services.orchestrator.tool_gateway.adapters.mcp.faults import HttpRefusal, SessionGone
from services.orchestrator.tool_gateway.adapters.mcp.messages import (
    Listener,
    answering,
    encode,
    error_in,
    notification_message,
    request_message,
    result_in,
)
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown

_CANCEL_SECONDS = 2.0


class Channel(Protocol):
    """Carries messages in both directions."""

    async def send(self, message: bytes) -> None:
        """Send a message; raises what `Link.request` raises."""
        ...

    def received(self) -> AsyncGenerator[dict[str, Any], None]:
        """Iterate over the messages of the server, once; ends with the channel.

        Raises:
            OutcomeUnknown, AnswerTooLarge: what came cannot be read.
        """
        ...

    def act_for(self, source: ToolSourceSpec, principal: Principal) -> None:
        """See `Link`."""
        ...

    async def close(self) -> None:
        """End it, when nobody receives from it any more."""
        ...


class DuplexLink:
    """One server process or stream. It serves one request of ours at a time."""

    def __init__(self, channel: Channel, idle: Listener) -> None:
        """`idle` hears what the server says while no request is under way."""
        self._channel = channel
        self._ids = itertools.count(1)
        self._idle = self._listener = idle
        self._waiting: tuple[int, asyncio.Future[dict[str, Any]]] | None = None
        self._background = BackgroundTasks()
        self._end: Exception | None = None
        self._cancelling: asyncio.Task[None] | None = None
        self._background.start(self._receive())

    @property
    def alive(self) -> bool:
        """Whether the server can still be heard."""
        return self._end is None

    def act_for(self, source: ToolSourceSpec, principal: Principal) -> None:
        """See `Link`."""
        self._channel.act_for(source, principal)

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        listener: Listener,
        *,
        headers: Mapping[str, str] | None = None,  # noqa: ARG002 - of HTTP alone
        before_send: BeforeSend | None = None,
        repeatable: bool = True,  # noqa: ARG002
    ) -> dict[str, Any]:
        """See `Link`."""
        if self._end is not None:
            raise SessionGone(f"the way to the server has ended: {self._end}")
        request_id = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting, self._listener = (request_id, answer), listener
        try:
            if before_send is not None:
                await before_send()
            await self._channel.send(request_message(request_id, method, params))
            return result_in(await answer)
        except asyncio.CancelledError:
            self._cancelling = self._background.start(self._cancel(request_id))
            raise
        finally:
            self._waiting, self._listener = None, self._idle

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """See `Link`."""
        await self._channel.send(notification_message(method, params))

    async def close(self) -> None:
        """End the channel."""
        self._end = self._end or OutcomeUnknown("it was closed")
        try:
            if self._cancelling is not None:
                await asyncio.wait([self._cancelling], timeout=_CANCEL_SECONDS)
            await self._background.stop()
        finally:
            await self._channel.close()

    async def _receive(self) -> None:
        end: Exception = OutcomeUnknown("the server ended before an answer came")
        try:
            async with (
                contextlib.aclosing(self._channel.received()) as messages,
                answering(_Current(self), self._respond) as dispatch,
            ):
                async for message in messages:
                    if "method" in message:
                        await dispatch(message)
                    else:
                        self._take_answer(message)
        except (OutcomeUnknown, AnswerTooLarge) as error:
            end = error
        finally:
            self._end = end
            if self._waiting is not None and not self._waiting[1].done():
                self._waiting[1].set_exception(end)

    def _take_answer(self, message: dict[str, Any]) -> None:
        if self._waiting is None or self._waiting[1].done():
            return
        names_none = message.get("id") is None and error_in(message) is not None
        if message.get("id") == self._waiting[0] or names_none:
            self._waiting[1].set_result(message)

    async def _respond(self, message: dict[str, Any]) -> None:
        await self._channel.send(encode(message))

    async def _cancel(self, request_id: int) -> None:
        with contextlib.suppress(NotSent, CallRefused, HttpRefusal, OutcomeUnknown):
            await self.notify(
                "notifications/cancelled", {"requestId": request_id, "reason": "the caller has cancelled"}
            )

    @property
    def listener(self) -> Listener:
        """Who hears what the server says now."""
        return self._listener


class _Current:
    """Passes what a server says to whoever uses its link now."""

    def __init__(self, link: DuplexLink) -> None:
        self._link = link

    async def notified(self, method: str, params: dict[str, Any]) -> None:
        """Pass it on."""
        await self._link.listener.notified(method, params)

    async def asked(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Pass it on."""
        return await self._link.listener.asked(method, params)
