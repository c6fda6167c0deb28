"""A proxy on loopback that breaks connections: before, in and after what goes through them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class CuttingProxy:
    """Passes connections on to a port, but for every third, which it breaks at one point after the other."""

    target: int
    cutting: bool = False
    port: int = 0
    cuts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("at once", "request", "answer", "half"), 0))
    _turns: itertools.count[int] = field(default_factory=itertools.count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cut = self._cut()
        try:
            if cut == "at once":
                return
            request = await self._request(reader)
            if cut == "request":
                request = request[: len(request) // 2]
            server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                to_server.write(request)
                await to_server.drain()
                if cut == "request":
                    return
                await self._answer(server, writer, cut)
            finally:
                to_server.transport.abort()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    def _cut(self) -> str:
        """Return where to break this connection; empty: nowhere."""
        turn = next(self._turns) if self.cutting else 0
        if turn % 3 != 1:
            return ""
        cut = list(self.cuts)[turn // 3 % len(self.cuts)]
        self.cuts[cut] += 1
        return cut

    async def _request(self, reader: asyncio.StreamReader) -> bytes:
        with contextlib.suppress(asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = [
                line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
            ]
            # The server behind ends the connection after the answer, so that one connection carries one request.
            head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            return head + (await reader.readexactly(int(length[0])) if length else b"")
        raise OSError("the client went away")

    async def _answer(self, server: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: str) -> None:
        while data := await server.read(65536):
            if cut == "answer":
                return
            writer.write(data[: len(data) // 2] if cut == "half" else data)
            await writer.drain()
            if cut == "half":
                return
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def cutting_proxy(target: int) -> AsyncIterator[CuttingProxy]:
    """Serve a proxy in front of a port for the time of a block; it cuts nothing before it is told to."""
    proxy = CuttingProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
