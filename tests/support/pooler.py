"""A pooler before a PostgreSQL server that gives sessions to transactions, as PgBouncer does in its transaction mode.

It refuses what PgBouncer refuses with its default settings, and lets its clients take turns on few sessions, so that
what is prepared or set in one transaction is not there in the next, or is somebody else's.
"""

import asyncio
import contextlib
import secrets
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_TAKEN_AT_START = frozenset({"user", "database", "client_encoding", "application_name", "datestyle", "timezone"})
_SSL_REQUESTS = frozenset({80877103, 80877104})
_READY, _IDLE = b"Z", b"I"
_ANSWERED = frozenset({b"Q", b"S"})
_ENDS = frozenset({b"X", b""})


@dataclass
class _Session:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass
class Pooler:
    """Sessions of the server at a socket, for one database."""

    socket: str
    user: str
    database: str
    sessions: int
    port: int = 0
    given: int = 0
    """How often a session was given to a client."""
    refused: list[str] = field(default_factory=list)
    """Parameters of starts that were refused."""
    _free: "asyncio.Queue[_Session]" = field(default_factory=asyncio.Queue)
    _greeting: bytes = b""

    @property
    def url(self) -> str:
        """Where clients find the database."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{self.database}"

    async def open(self) -> None:
        """Open all sessions."""
        for _ in range(self.sessions):
            await self._open_one()

    async def _open_one(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self.socket)
        words = f"user\0{self.user}\0database\0{self.database}\0\0".encode()
        writer.write(struct.pack("!II", len(words) + 8, 196608) + words)
        greeting = b""
        while (message := await _message(reader))[:1] != _READY:
            if message[:1] == b"S":
                greeting += message
        self._greeting = greeting
        self._free.put_nowait(_Session(reader, writer))

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Serve one client."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if await self._greet(client, to_client):
                messages: asyncio.Queue[bytes] = asyncio.Queue()
                reading = asyncio.create_task(_read_all(client, messages))
                try:
                    while (first := await messages.get())[:1] not in _ENDS:
                        await self._transaction(first, messages, to_client)
                finally:
                    reading.cancel()
        to_client.transport.abort()

    async def _greet(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> bool:
        [length, code] = struct.unpack("!II", await client.readexactly(8))
        if code in _SSL_REQUESTS:
            to_client.write(b"N")
            [length, code] = struct.unpack("!II", await client.readexactly(8))
        words = (await client.readexactly(length - 8)).decode().split("\0")
        unknown = [name for name in words[:-2:2] if name.lower() not in _TAKEN_AT_START]
        if unknown:
            self.refused += unknown
            said = f"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: {unknown[0]}\0\0".encode()
            to_client.write(b"E" + struct.pack("!I", len(said) + 4) + said)
            await to_client.drain()
            return False
        key = struct.pack("!III", 12, secrets.randbits(31), secrets.randbits(31))
        to_client.write(b"R" + struct.pack("!II", 8, 0) + self._greeting + b"K" + key + _READY + b"\0\0\0\5" + _IDLE)
        return True

    async def _transaction(
        self, first: bytes, messages: "asyncio.Queue[bytes]", to_client: asyncio.StreamWriter
    ) -> None:
        """Pass messages on in both directions, from the client's first one until the server's session is free again."""
        session = await self._free.get()
        self.given += 1
        session.writer.write(first)
        # Each of these is answered with one ReadyForQuery.
        owed = int(first[:1] in _ANSWERED)
        to_server = asyncio.create_task(messages.get())
        from_server = asyncio.create_task(_message(session.reader))
        try:
            while True:
                await asyncio.wait({to_server, from_server}, return_when=asyncio.FIRST_COMPLETED)
                if from_server.done():
                    message = from_server.result()
                    to_client.write(message)
                    owed -= message[:1] == _READY
                    if message[:1] == _READY and message[5:6] == _IDLE and not owed and not to_server.done():
                        self._free.put_nowait(session)
                        return
                    from_server = asyncio.create_task(_message(session.reader))
                if to_server.done():
                    message = to_server.result()
                    if message[:1] in _ENDS:
                        # In the middle of a transaction: the session is of no use to others.
                        session.writer.transport.abort()
                        await self._open_one()
                        messages.put_nowait(message)
                        return
                    session.writer.write(message)
                    owed += message[:1] in _ANSWERED
                    to_server = asyncio.create_task(messages.get())
        finally:
            to_server.cancel()
            from_server.cancel()


async def _read_all(client: asyncio.StreamReader, messages: "asyncio.Queue[bytes]") -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            messages.put_nowait(await _message(client))
    messages.put_nowait(b"X")


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


@asynccontextmanager
async def pooler_before(socket: str, user: str, database: str, *, sessions: int = 3) -> AsyncIterator[Pooler]:
    """Serve a pooler of the server whose socket is at a path."""
    pooler = Pooler(socket, user, database, sessions)
    await pooler.open()
    server = await asyncio.start_server(pooler.serve, "127.0.0.1", 0)
    pooler.port = server.sockets[0].getsockname()[1]
    try:
        yield pooler
    finally:
        server.close()
