"""Connections to SQLite that hold its locks for as short a time as they can.

Each call goes to the connection's thread and back, which takes longer than most statements do. A transaction that
writes keeps all other writers waiting meanwhile, those of other processes in naps. SQLite's own naps grow to 100 ms,
so that a process which writes all the time keeps others out for as long as it does: ours stay short.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any

import aiosqlite

BEGIN_WRITING = "BEGIN IMMEDIATE"
_BUSY_SECONDS = 30.0
_NAP_SECONDS = 0.002
_ROWS_AT_ONCE = 64
_sleep = time.sleep


class PrefetchingCursor(aiosqlite.Cursor):
    """Makes one call of a statement, its first rows, and its end when these are all."""

    _cursor: sqlite3.Cursor

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.iter_chunk_size = _ROWS_AT_ONCE
        self._conn = connection
        self._rows: deque[Any] = deque()
        self._ended = True
        """Whether `_rows` are all that there is, and nothing is open."""

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> "PrefetchingCursor":
        """Run a statement."""
        await self._execute(self._begin, sql, () if parameters is None else parameters)  # type: ignore[no-untyped-call]
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> "PrefetchingCursor":
        """Run a statement that returns no rows, with each of several parameters."""
        await self._execute(self._run_many, sql, parameters)  # type: ignore[no-untyped-call]
        return self

    async def fetchone(self) -> Any:
        """Return the next row, or None."""
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return up to `size` more rows, by default as many as are read at once."""
        size = size or _ROWS_AT_ONCE
        missing = size - len(self._rows)
        if missing > 0 and not self._ended:
            await self._execute(self._read, missing)  # type: ignore[no-untyped-call]
        return [self._rows.popleft() for _ in range(min(size, len(self._rows)))]

    async def fetchall(self) -> list[Any]:
        """Return all other rows."""
        if not self._ended:
            await self._execute(self._read, -1)  # type: ignore[no-untyped-call]
        rows = list(self._rows)
        self._rows.clear()
        return rows

    async def close(self) -> None:
        """End the statement."""
        if not self._ended:
            await self._execute(self._end)  # type: ignore[no-untyped-call]

    # ---- in the connection's thread

    def _begin(self, sql: str, parameters: Any) -> None:
        connection = self._conn._conn  # noqa: SLF001 - as the class it is derived from does
        self._cursor = _begin_writing(connection) if sql == BEGIN_WRITING else connection.execute(sql, parameters)
        self._ended = False
        self._read(_ROWS_AT_ONCE)

    def _run_many(self, sql: str, parameters: Any) -> None:
        self._cursor = self._conn._conn.executemany(sql, parameters)  # noqa: SLF001
        self._cursor.close()

    def _read(self, count: int) -> None:
        rows = self._cursor.fetchall() if count < 0 else self._cursor.fetchmany(count)
        self._rows.extend(rows)
        if count < 0 or len(rows) < count:
            self._end()

    def _end(self) -> None:
        self._cursor.close()
        self._ended = True


class RollingBackConnection(aiosqlite.Connection):
    """Ends its transaction before it is closed.

    SQLite keeps a closed connection, with its locks, for as long as one of its statements has not been read to the end.
    A call that is cancelled leaves such a statement until the garbage collector comes by: all writers would wait.
    """

    _may_be_at_work = False
    """Whether a call was cancelled, which its thread makes all the same, since the last rollback."""

    def cursor(self) -> PrefetchingCursor:  # type: ignore[override]
        """Return a new cursor."""
        return PrefetchingCursor(self)

    async def _execute(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            self._may_be_at_work = True
            raise

    async def rollback(self) -> None:
        """Roll back, unless nothing is open: the pool asks for it whenever a connection is given back."""
        if self._may_be_at_work or self.in_transaction:
            self._may_be_at_work = False
            await super().rollback()

    async def close(self) -> None:
        """Roll back what is open, and close."""
        if self._connection is None:
            return
        try:
            await self._execute(_close, self._connection)
        finally:
            self._stop_running()  # type: ignore[no-untyped-call]
            self._connection = None


def _begin_writing(connection: sqlite3.Connection) -> sqlite3.Cursor:
    connection.execute("PRAGMA busy_timeout=0").close()
    try:
        give_up_at = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return connection.execute(BEGIN_WRITING)
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > give_up_at:
                    raise
            _sleep(_NAP_SECONDS)
    finally:
        connection.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000:.0f}").close()


def _close(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.rollback()
    connection.close()


async def open_sqlite(path: str) -> aiosqlite.Connection:
    """Return a connection to a file."""
    connection = RollingBackConnection(partial(sqlite3.connect, path, timeout=_BUSY_SECONDS), _ROWS_AT_ONCE)
    # A connection that nobody closed must not keep the process from ending.
    connection.daemon = True
    return await connection
