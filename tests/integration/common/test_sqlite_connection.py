"""Connections to SQLite give the rows of statements, however they are read, and end their transactions."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite
import pytest

from services.common.db.sqlite_connection import BEGIN_WRITING, open_sqlite

ROWS = 200


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[aiosqlite.Connection]:
    connection = await open_sqlite(str(tmp_path / "numbers.db"))
    async with connection.cursor() as cursor:
        await cursor.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        await cursor.executemany("INSERT INTO numbers VALUES (?)", [(number,) for number in range(ROWS)])
    await connection.commit()
    yield connection
    await connection.close()


async def test_rows_come_in_order_however_they_are_read(connection: aiosqlite.Connection) -> None:
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT number FROM numbers ORDER BY number")
        read = [await cursor.fetchone(), *await cursor.fetchmany(3), *await cursor.fetchmany(100)]
        read += await cursor.fetchall()
        assert read == [(number,) for number in range(ROWS)]
        assert await cursor.fetchone() is None
        await cursor.execute("SELECT number FROM numbers ORDER BY number")
        assert [row async for row in cursor] == [(number,) for number in range(ROWS)]


async def test_changed_rows_are_counted_and_returned(connection: aiosqlite.Connection) -> None:
    async with connection.cursor() as cursor:
        await cursor.execute("DELETE FROM numbers WHERE number < 3 RETURNING number")
        assert list(await cursor.fetchall()) == [(0,), (1,), (2,)]
        await cursor.execute("DELETE FROM numbers WHERE number < ?", (100,))
        assert cursor.rowcount == 97
        await cursor.execute("INSERT INTO numbers VALUES (1000)")
        assert cursor.lastrowid == 1000


async def test_a_statement_that_is_not_read_to_its_end_keeps_no_lock(
    connection: aiosqlite.Connection, tmp_path: Path
) -> None:
    async with connection.cursor() as cursor:
        await cursor.execute("BEGIN IMMEDIATE")
        await cursor.execute("UPDATE numbers SET number = number + 1000 RETURNING number")
        assert await cursor.fetchone() == (1000,)
    await connection.rollback()
    with contextlib.closing(sqlite3.connect(tmp_path / "numbers.db", timeout=0)) as other:
        other.execute("DELETE FROM numbers")


async def test_what_a_cancelled_call_has_begun_is_rolled_back(connection: aiosqlite.Connection, tmp_path: Path) -> None:
    async with connection.cursor() as cursor:
        begin = asyncio.create_task(cursor.execute("BEGIN IMMEDIATE"))
        await asyncio.sleep(0)
        begin.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await begin
    await connection.rollback()
    assert not connection.in_transaction
    with contextlib.closing(sqlite3.connect(tmp_path / "numbers.db", timeout=0)) as other:
        other.execute("DELETE FROM numbers")


async def test_a_writer_looks_for_its_turn_as_often_however_long_it_waits(
    connection: aiosqlite.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(
        sqlite3.connect(tmp_path / "numbers.db", isolation_level=None, check_same_thread=False)
    ) as other:
        other.execute(BEGIN_WRITING)
        naps: list[float] = []

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 50:
                other.execute("COMMIT")

        monkeypatch.setattr("services.common.db.sqlite_connection._sleep", nap)
        async with connection.cursor() as cursor:
            await cursor.execute(BEGIN_WRITING)
        assert connection.in_transaction
        assert set(naps) == {naps[0]}
        assert naps[0] <= 0.005
        await connection.rollback()
    async with connection.execute("PRAGMA busy_timeout") as timeout:
        assert await timeout.fetchone() == (30_000,)
