"""Reading one row by its key, over and over: what a hot path does to prove that what it remembers still holds."""

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Any, Protocol

import structlog
from sqlalchemy import Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL

from services.common.db.failures import unavailable
from services.common.db.snapshots import Snapshots

logger = structlog.get_logger(__name__)

_LOCKED = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED"})


class PointRead(Protocol):
    """A SELECT of one row by the whole of a key."""

    async def fetch(self, *key: Any) -> Sequence[Any] | None:
        """Return the row's columns in the statement's order, None when there is none.

        Raises:
            Unavailable: the database does not answer.
        """
        ...

    async def close(self) -> None:
        """Close its connection."""
        ...


class PlainPointRead:
    """Reads as any other statement does."""

    def __init__(self, snapshots: Snapshots, statement: Select[Any], parameters: Sequence[str]) -> None:
        """`parameters` are the names of the statement's parameters, in the order of a key's parts."""
        self._snapshots = snapshots
        self._statement = statement
        self._parameters = parameters

    async def fetch(self, *key: Any) -> Sequence[Any] | None:
        """See `PointRead`."""
        rows = await self._snapshots.fetch_raw(self._statement, dict(zip(self._parameters, key, strict=True)))
        return list(rows[0].values()) if rows else None

    async def close(self) -> None:
        """See `PointRead`; the connections are those of all statements."""


class SqlitePointRead:
    """Reads on the event loop, on a connection that waits for nobody.

    A look-up by key takes some 15 microseconds; a change of threads and back takes ten times that. In WAL mode readers
    do not wait for writers. Should the file be locked all the same, or not be there yet, the statement is read in a
    thread as any other: see decision 0017.
    """

    def __init__(self, url: URL, plain: PlainPointRead, statement: Select[Any], parameters: Sequence[str]) -> None:
        """`plain` reads what cannot be read at once."""
        self._path = url.database or ":memory:"
        self._plain = plain
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
        self._text = str(compiled)
        self._order = [parameters.index(name) for name in compiled.positiontup or ()]
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._has_warned = False

    async def fetch(self, *key: Any) -> Sequence[Any] | None:
        """See `PointRead`."""
        connection = self._connection or await self._opened()
        try:
            # All rows are fetched: a statement that is not at its end would hold a snapshot, and the file's growth.
            rows = connection.execute(self._text, [key[place] for place in self._order]).fetchall()
        except sqlite3.Error as error:
            await self._after(error, connection)
            return await self._plain.fetch(*key)
        return rows[0] if rows else None

    async def _opened(self) -> sqlite3.Connection:
        if self._closed:
            raise unavailable()
        try:
            connection = await asyncio.to_thread(_open, self._path)
        except sqlite3.Error as error:
            raise unavailable() from error
        if self._connection is None and not self._closed:
            self._connection = connection
            return connection
        # Another call was faster, or all was closed meanwhile.
        await asyncio.to_thread(connection.close)
        if self._connection is None:
            raise unavailable()
        return self._connection

    async def _after(self, error: sqlite3.Error, connection: sqlite3.Connection) -> None:
        """Log the first failure, and have the next call open another connection unless the file was only locked."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning("point_read_failed", error_type=type(error).__name__, error_code=_code(error))
        if _code(error) in _LOCKED or self._connection is not connection:
            return
        self._connection = None
        await asyncio.to_thread(connection.close)

    async def close(self) -> None:
        """See `PointRead`."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.to_thread(connection.close)


def _code(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", "")


def _open(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only=ON")
    return connection
