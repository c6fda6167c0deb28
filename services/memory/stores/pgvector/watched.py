"""Connections to servers that nobody here vouches for: what they send is looked at before the driver keeps it."""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import asyncpg

from services.memory.stores.pgvector.handshake import Handshake


class AnswerTooLarge(Exception):
    """A server sent more than an answer may have; its connection was closed. Never leaves the store."""


class WatchedLoop:
    """The event loop of one connection, as the driver sees it: its transports count, and everything else is the loop's.

    asyncpg lets one choose the loop, and neither its transport nor its protocol.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, most_bytes: int) -> None:
        """`most_bytes` is what may come between two sends."""
        self.loop = loop
        self._most_bytes = most_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], *address: Any, **options: Any
    ) -> tuple[Any, asyncio.Protocol]:
        """Connect, and watch what comes."""
        transport, watched = await self.loop.create_connection(lambda: self._watched(factory()), *address, **options)
        return _Transport(transport, watched.watch), watched.inner

    async def start_tls(self, transport: Any, protocol: asyncio.Protocol, *context: Any, **options: Any) -> Any:
        """Encrypt a connection, and watch what comes within TLS."""
        plain = transport.inner if isinstance(transport, _Transport) else transport
        encrypted = await self.loop.start_tls(plain, protocol, *context, **options)
        return encrypted and _Transport(encrypted, _Watch(self._most_bytes))

    def _watched(self, protocol: asyncio.Protocol) -> "_Protocol":
        return _Protocol(protocol, _Watch(self._most_bytes))


class WatchedConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that was opened by a `WatchedLoop`, and runs in the loop behind it."""

    __slots__ = ()

    def __init__(self, protocol: Any, transport: Any, loop: Any, *rest: Any) -> None:
        super().__init__(protocol, transport, loop.loop if isinstance(loop, WatchedLoop) else loop, *rest)


class _Watch:
    """What has come from one server since something was sent to it."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._received = 0
        self._handshake = Handshake()

    def sent(self) -> None:
        """What comes from now on is another answer."""
        self._received = 0

    def received(self, data: bytes) -> None:
        """Look at the bytes that come next.

        Raises:
            AnswerTooLarge: they are too many.
            ssl.SSLError: they are no part of a handshake that this process takes part in.
        """
        self._received += len(data)
        if self._received > self._most_bytes:
            raise AnswerTooLarge
        if not self._handshake.is_over:
            self._handshake.see(data)


class _Transport:
    """A transport that notes when something is sent."""

    def __init__(self, inner: Any, watch: _Watch) -> None:
        self.inner = inner
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def write(self, data: Any) -> None:
        self._watch.sent()
        self.inner.write(data)

    def writelines(self, buffers: Iterable[Any]) -> None:
        self._watch.sent()
        self.inner.writelines(buffers)

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.inner.set_protocol(_Protocol(protocol, self._watch, self.inner))


class _Protocol(asyncio.Protocol):
    """Hands on what comes until it is too much, and ends the connection then."""

    def __init__(self, inner: asyncio.Protocol, watch: _Watch, transport: Any = None) -> None:
        self.inner = inner
        self.watch = watch
        self._transport = transport
        self._failure: Exception | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.inner.connection_made(_Transport(transport, self.watch))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        if self._failure is not None:
            return
        try:
            self.watch.received(data)
        except (AnswerTooLarge, ssl.SSLError) as error:
            self._failure = error
            self._transport.abort()
            return
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.inner.connection_lost(self._failure or exc)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()
