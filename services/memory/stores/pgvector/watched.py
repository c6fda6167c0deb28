"""Connections to servers that nobody here vouches for: what they send is looked at before the driver keeps it."""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import asyncpg

from services.memory.stores.pgvector.answer_room import Answer, AnswerRoom, AnswerTooLarge, NoRoomForAnswer
from services.memory.stores.pgvector.handshake import Handshake


class WatchedLoop:
    """The event loop of one connection, as the driver sees it: its transports count, and everything else is the loop's.

    asyncpg lets one choose the loop, and neither its transport nor its protocol.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, room: AnswerRoom, group_id: str) -> None:
        """What comes between two sends is an answer to `group_id`, and takes of `room`."""
        self.loop = loop
        self._room = room
        self._group_id = group_id

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
        plain = transport
        if isinstance(transport, _Transport):
            # What watches it hears no more of the connection, not even its end.
            transport.watch.let_go()
            plain = transport.inner
        encrypted = await self.loop.start_tls(plain, protocol, *context, **options)
        return encrypted and _Transport(encrypted, self._watch())

    def _watched(self, protocol: asyncio.Protocol) -> "_Protocol":
        return _Protocol(protocol, self._watch())

    def _watch(self) -> "_Watch":
        return _Watch(Answer(self._room, self._group_id))


class WatchedConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that was opened by a `WatchedLoop`, and runs in the loop behind it."""

    __slots__ = ()

    def __init__(self, protocol: Any, transport: Any, loop: Any, *rest: Any) -> None:
        super().__init__(protocol, transport, loop.loop if isinstance(loop, WatchedLoop) else loop, *rest)

    def let_go_of_answer(self) -> None:
        """Note that nobody reads the last answer any more."""
        self._transport.watch.let_go()


class _Watch:
    """Looks at what comes from one server."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._handshake = Handshake()

    def let_go(self) -> None:
        """What comes from now on is another answer, if anything does."""
        self._answer.let_go()

    def received(self, data: bytes) -> None:
        """Look at the bytes that come next.

        Raises:
            AnswerTooLarge: they are too many.
            NoRoomForAnswer: they are too many beside other answers.
            ssl.SSLError: they are no part of a handshake that this process takes part in.
        """
        self._answer.add(data)
        if not self._handshake.is_over:
            self._handshake.see(data)


class _Transport:
    """A transport that notes when something is sent."""

    def __init__(self, inner: Any, watch: _Watch) -> None:
        self.inner = inner
        self.watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def write(self, data: Any) -> None:
        self.watch.let_go()
        self.inner.write(data)

    def writelines(self, buffers: Iterable[Any]) -> None:
        self.watch.let_go()
        self.inner.writelines(buffers)

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.inner.set_protocol(_Protocol(protocol, self.watch, self.inner))


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
        except (AnswerTooLarge, NoRoomForAnswer, ssl.SSLError) as error:
            self._failure = error
            self._transport.abort()
            return
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.watch.let_go()
        self.inner.connection_lost(self._failure or exc)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()
