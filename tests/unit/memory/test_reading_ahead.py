"""Reading a result in chunks, of which the next one is read while the one before is worked on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from services.memory.domain.records import MemoryKind
from services.memory.stores.sql.statements import plain_chunks
from services.memory.tables import records

STATEMENT = select(records[MemoryKind.UNIFIED].c.id)


class _Connection:
    """A connection of PostgreSQL whose second chunk never comes, and which takes its time to be cancelled."""

    dialect = SimpleNamespace(name="postgresql")

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.may_end = asyncio.Event()
        self.closed = False

    async def stream(self, _: Any) -> Any:
        return self

    async def partitions(self) -> AsyncIterator[list[int]]:
        try:
            yield [1]
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
                await self.may_end.wait()
        finally:
            self.closed = True


async def test_a_read_that_is_cancelled_twice_ends_with_its_generator_closed() -> None:
    connection: Any = _Connection()
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))

    async def read() -> None:
        async with contextlib.aclosing(plain_chunks(connection, STATEMENT, 1)) as chunks:
            async for _ in chunks:
                # Work on a chunk, in which the first cancellation comes.
                await asyncio.Event().wait()

    reading = asyncio.create_task(read())
    for _ in range(5):
        await asyncio.sleep(0)
    reading.cancel()
    await connection.cancelled.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    reading.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not reading.done()
    connection.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert connection.closed
    assert unheard == []
