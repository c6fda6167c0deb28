"""Connections to SQLite that give their locks back when they are closed."""

import sqlite3
from functools import partial

import aiosqlite

_BUSY_SECONDS = 30.0
_ROWS_AT_ONCE = 64


class RollingBackConnection(aiosqlite.Connection):
    """Ends its transaction before it is closed.

    SQLite keeps a closed connection, with its locks, for as long as one of its statements has not been read to the end.
    A call that is cancelled leaves such a statement until the garbage collector comes by: all writers would wait.
    """

    async def close(self) -> None:
        """Roll back what is open, and close."""
        if self._connection is None:
            return
        try:
            await self._execute(_close, self._connection)  # type: ignore[no-untyped-call]
        finally:
            self._stop_running()  # type: ignore[no-untyped-call]
            self._connection = None


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
