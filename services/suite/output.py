"""What the suite's child processes print."""

from asyncio import StreamReader
from collections.abc import AsyncIterator

MAX_LINE_BYTES = 1024 * 1024


async def lines(stream: StreamReader) -> AsyncIterator[str]:
    """Yield the lines of a stream whose limit is `MAX_LINE_BYTES`, to its end."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            # The reader has thrown away what it held of the line; what is left of it comes next.
            yield f"[left out: a line of more than {MAX_LINE_BYTES} bytes]"
            continue
        if not line:
            return
        yield line.decode(errors="replace").rstrip("\r\n")
