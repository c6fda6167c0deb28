"""Streamable HTTP: without sessions, as in the modern era, and with the sessions of the legacy one."""

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp

from services.common.background import BackgroundTasks
from services.common.http import BeforeSend
from services.common.identity.principal import Principal
from services.common.tracing.spans import leave_trace
from services.orchestrator.domain.tool_source import ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.mcp.endpoint import (
    JSON_TYPE,
    STREAM_TYPE,
    AnswerTooLarge,
    Endpoint,
    event_messages,
)
from services.orchestrator.tool_gateway.adapters.mcp.faults import HttpRefusal, SessionGone
from services.orchestrator.tool_gateway.adapters.mcp.messages import (
    Listener,
    answer_among,
    answering,
    encode,
    notification_message,
    request_message,
)
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown

_POST_HEADERS = {"Accept": f"{JSON_TYPE}, {STREAM_TYPE}", "Content-Type": JSON_TYPE}
_SESSION_ID = re.compile(r"[\x21-\x7e]{1,1024}")
_SMALL_SECONDS = 10.0
_MAX_RESUMPTIONS = 5
_RESUME_SECONDS = 1.0
_MAX_RESUME_SECONDS = 30.0


async def _no_response(_message: dict[str, Any]) -> None:
    """Leave a server's request unanswered: the modern era has none."""


class StatelessLink:
    """Each request stands alone; closing its response cancels it."""

    alive = False
    """There is nothing to keep: what was known of the server may be known better by the next call."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def act_for(self, source: ToolSourceSpec, principal: Principal) -> None:
        """See `Link`."""
        self._endpoint.act_for(source, principal)

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        listener: Listener,
        *,
        headers: Mapping[str, str] | None = None,
        before_send: BeforeSend | None = None,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        """See `Link`."""
        if before_send is not None and repeatable:
            await before_send()
        try:
            response = await self._endpoint.send(
                "POST",
                {**_POST_HEADERS, **(headers or {})},
                request_message(1, method, self._endpoint.traced(params)),
                before_send=None if repeatable else before_send,
            )
        except HttpRefusal as refusal:
            raise refusal.error or refusal from refusal
        with contextlib.closing(response):
            return await answer_among(self._endpoint.messages(response), 1, listener, _no_response)

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Do nothing: the modern era has no notifications of clients over HTTP."""

    async def close(self) -> None:
        """Do nothing: there is nothing to end."""


class SessionLink:
    """One session. It serves one request of ours at a time, so what the server says belongs to that request."""

    def __init__(self, endpoint: Endpoint, idle: Listener) -> None:
        """`idle` hears what the server says while no request is under way."""
        self._endpoint = endpoint
        self._ids = itertools.count(1)
        self._headers: dict[str, str] = {}
        self._idle = self._listener = idle
        self._background = BackgroundTasks()
        self._cancelling: asyncio.Task[None] | None = None
        self._gone = False

    @property
    def alive(self) -> bool:
        """Whether the server still knows the session, as far as was seen."""
        return not self._gone

    def act_for(self, source: ToolSourceSpec, principal: Principal) -> None:
        """See `Link`."""
        self._endpoint.act_for(source, principal)

    def agreed(self, version: str) -> None:
        """Say which revision the handshake has led to."""
        self._headers["MCP-Protocol-Version"] = version

    def hear(self) -> None:
        """Hear from now on what the server says outside of its answers."""
        self._background.start(self._hear())

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        listener: Listener,
        *,
        headers: Mapping[str, str] | None = None,
        before_send: BeforeSend | None = None,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        """See `Link`."""
        request_id = next(self._ids)
        self._listener = listener
        if before_send is not None and repeatable:
            await before_send()
        try:
            response = await self._post(
                request_message(request_id, method, self._endpoint.traced(params)),
                headers=headers or {},
                before_send=None if repeatable else before_send,
            )
            if method == "initialize":
                self._take_session_id(response)
            with contextlib.closing(response):
                return await answer_among(self._messages(response), request_id, listener, self._respond)
        except asyncio.CancelledError:
            self._gone = True
            self._cancelling = self._background.start(self._cancel(request_id))
            raise
        except (OutcomeUnknown, AnswerTooLarge):
            self._gone = True
            raise
        finally:
            self._listener = self._idle

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """See `Link`."""
        (await self._post(notification_message(method, params), seconds=_SMALL_SECONDS)).close()

    async def close(self) -> None:
        """End the session at the server, which may not want to know."""
        self._gone = True
        if self._cancelling is not None:
            await asyncio.wait([self._cancelling])
        await self._background.stop()
        with contextlib.suppress(NotSent, CallRefused, HttpRefusal, OutcomeUnknown):
            if "Mcp-Session-Id" in self._headers:
                (await self._endpoint.send("DELETE", self._headers, seconds=_SMALL_SECONDS)).close()

    async def _post(
        self,
        data: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        before_send: BeforeSend | None = None,
        seconds: float | None = None,
    ) -> aiohttp.ClientResponse:
        try:
            return await self._endpoint.send(
                "POST",
                {**_POST_HEADERS, **self._headers, **(headers or {})},
                data,
                before_send=before_send,
                seconds=seconds,
            )
        except HttpRefusal as refusal:
            in_session = "Mcp-Session-Id" in self._headers
            # Many servers answer 400 for a session they do not know, with an error that names no request.
            if in_session and refusal.status in (400, 404) and not refusal.error_names_request:
                self._gone = True
                raise SessionGone(f"{self._endpoint.origin} does not know the session any more: {refusal}") from refusal
            if refusal.error is not None and refusal.error_names_request:
                raise refusal.error from refusal
            raise

    def _take_session_id(self, response: aiohttp.ClientResponse) -> None:
        session_id = response.headers.get("Mcp-Session-Id")
        if session_id is None:
            return
        if not _SESSION_ID.fullmatch(session_id):
            response.close()
            raise CallRefused(
                f"{self._endpoint.origin} gives a session id that is not allowed", reason="TOOL_UNAVAILABLE"
            )
        self._headers["Mcp-Session-Id"] = session_id

    async def _respond(self, message: dict[str, Any]) -> None:
        (await self._post(encode(message), seconds=_SMALL_SECONDS)).close()

    async def _cancel(self, request_id: int) -> None:
        with contextlib.suppress(NotSent, CallRefused, HttpRefusal, OutcomeUnknown):
            await self.notify(
                "notifications/cancelled", {"requestId": request_id, "reason": "the caller has cancelled"}
            )

    async def _messages(self, response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any], None]:
        """Iterate over messages; a stream whose events have ids is read on where it broke off.

        Reading on asks for what was said, and does not send the request again.
        """
        if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() != STREAM_TYPE:
            async for message in self._endpoint.messages(response):
                yield message
            return
        last_id, pause, failures = "", _RESUME_SECONDS, 0
        stream: aiohttp.ClientResponse | None = response
        while True:
            try:
                if stream is None:
                    stream = await self._resume(last_id)
                async with contextlib.aclosing(self._endpoint.events(stream)) as events:
                    async for event in events:
                        failures = 0
                        last_id = event.id if event.id is not None else last_id
                        pause = pause if event.retry_seconds is None else event.retry_seconds
                        for message in await event_messages(event, self._endpoint.text):
                            yield message
            except (OutcomeUnknown, NotSent):
                if not last_id or failures == _MAX_RESUMPTIONS:
                    raise OutcomeUnknown(
                        f"the connection to {self._endpoint.origin} ended before an answer came"
                    ) from None
            if not last_id:
                return
            stream, failures = None, failures + 1
            await asyncio.sleep(min(pause, _MAX_RESUME_SECONDS))

    async def _resume(self, last_id: str) -> aiohttp.ClientResponse:
        try:
            return await self._endpoint.send(
                "GET",
                {"Accept": STREAM_TYPE, **self._headers, "Last-Event-ID": last_id.encode("ascii", "replace").decode()},
            )
        except (HttpRefusal, CallRefused) as refusal:
            raise OutcomeUnknown(
                f"the answer broke off, and {self._endpoint.origin} does not continue it: {refusal}"
            ) from refusal

    async def _hear(self) -> None:
        """Follow what the server says outside of answers, where it does."""
        leave_trace()
        with contextlib.suppress(NotSent, CallRefused, HttpRefusal, OutcomeUnknown):
            while True:
                response = await self._endpoint.send("GET", {"Accept": STREAM_TYPE, **self._headers})
                with contextlib.suppress(OutcomeUnknown, AnswerTooLarge):
                    await self._hear_stream(response)
                # Servers close such streams now and then.
                await asyncio.sleep(_RESUME_SECONDS)

    async def _hear_stream(self, response: aiohttp.ClientResponse) -> None:
        async with (
            contextlib.aclosing(self._endpoint.messages(response)) as messages,
            answering(_Current(self), self._respond) as dispatch,
        ):
            async for message in messages:
                if "method" in message:
                    await dispatch(message)

    @property
    def listener(self) -> Listener:
        """Who hears what the server says now."""
        return self._listener


class _Current:
    """Passes what a server says to whoever uses its session now."""

    def __init__(self, link: SessionLink) -> None:
        self._link = link

    async def notified(self, method: str, params: dict[str, Any]) -> None:
        """Pass it on."""
        await self._link.listener.notified(method, params)

    async def asked(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Pass it on."""
        return await self._link.listener.asked(method, params)
