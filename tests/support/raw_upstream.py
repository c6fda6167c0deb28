"""An HTTP server whose answers are bytes, for those that no HTTP library would send."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

Answer = Sequence[bytes | None]
"""What is sent, in pieces; None: nothing more comes, and the connection stays."""


def answer(status: int, body: bytes, *headers: str, sent: int | None = None) -> list[bytes | None]:
    """Return an answer of which the first `sent` bytes of the body come; None: all."""
    head = [f"HTTP/1.1 {status} Status", "Content-Type: application/json", *headers, f"Content-Length: {len(body)}"]
    return ["\r\n".join(head).encode() + b"\r\n\r\n" + body[:sent]]


class RawUpstream:
    """Answers each request by the word in it that there is an answer for, and closes the connection."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: Counter[str] = Counter()
        """By word."""
        self._server: asyncio.Server | None = None
        self._stalled: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._stalled:
            task.cancel()
        await asyncio.gather(*self._stalled, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        body = (await reader.readexactly(length)).decode()
        word = next(word for word in self.answers if word in body)
        self.requests[word] += 1
        try:
            for piece in self.answers[word]:
                if piece is None:
                    task = asyncio.current_task()
                    assert task is not None
                    self._stalled.add(task)
                    await asyncio.Event().wait()
                else:
                    writer.write(piece)
                    await writer.drain()
        finally:
            writer.close()
