"""Single SELECTs. Each is a snapshot by itself: a transaction around it would cost more than it does."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from sqlalchemy import CursorResult, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import Pool

from services.common.db.connection_turns import ConnectionTurns
from services.common.db.failures import explained_errors, refusal, unavailable
from services.common.db.postgres_reads import PostgresReads
from services.common.db.reader_threads import ReaderThreads
from services.common.db.sessions import limit_transactions
from services.common.db.sqlite_reads import SqliteReads
from services.common.db.statement import Statement
from services.common.errors import Unavailable

# More than processors: a reader of many rows must not keep those of a few waiting.
_SQLITE_READERS = 4


class Snapshots(Protocol):
    """Reads without transactions."""

    async def fetch(self, statement: Statement, parameters: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Return the rows of a statement by column names.

        Raises:
            Unavailable: the database does not answer.
        """
        ...

    async def fetch_raw(self, statement: Statement, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what `fetch` does, with values as the driver gives them; for statements that are made once.

        Raises:
            Unavailable: the database does not answer.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class SqliteSnapshots:
    """Reads in threads of its own: a statement is one change of threads, and not one for each step of it."""

    def __init__(self, url: URL) -> None:
        self._engine = create_engine(
            url.set(drivername="sqlite"),
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": 30, "check_same_thread": False},
            pool_size=_SQLITE_READERS,
            max_overflow=0,
        )
        self._plain = SqliteReads(url.database or ":memory:")
        self._threads = ReaderThreads(_SQLITE_READERS, "coxswain-read")
        self._closed = False

    @property
    def pool(self) -> Pool:
        """The connections."""
        return self._engine.pool

    async def fetch(self, statement: Statement, parameters: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """See `Snapshots`."""
        return await self._in_thread(self._fetch, statement, parameters)

    async def fetch_raw(self, statement: Statement, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `Snapshots`."""
        return await self._in_thread(self._fetch_raw, statement, parameters)

    async def _in_thread(
        self,
        fetch: Callable[[Statement, Any], list[dict[str, Any]]],
        statement: Statement,
        parameters: Mapping[str, Any] | None,
    ) -> list[dict[str, Any]]:
        if self._closed:
            raise unavailable()
        with explained_errors():
            return await self._threads.run(fetch, statement, parameters)

    def _fetch_raw(self, statement: Statement, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            return self._plain.fetch(statement, parameters)
        except sqlite3.Error:
            # Whatever is the matter, this says it.
            return self._fetch(statement, parameters)

    def _fetch(self, statement: Statement, parameters: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            return _rows(connection.execute(statement, parameters))

    async def close(self) -> None:
        """See `Snapshots`; what is being read is waited for."""
        self._closed = True
        await self._threads.close()
        self._plain.close()
        self._engine.dispose()


class PostgresSnapshots:
    """Reads on connections that are not asked before whether they still stand, which takes three exchanges.

    What finds a lost one is read again, on a new one.
    """

    def __init__(self, url: URL, options: Mapping[str, Any], *, in_transactions: bool) -> None:
        """`options` are those of the engine, beside what autocommit needs.

        Through a pooler a read is `in_transactions` after all: it is two exchanges, which have to have one session.
        """
        isolation = {} if in_transactions else {"isolation_level": "AUTOCOMMIT"}
        self._engine = create_async_engine(url, **isolation, **options)
        self._connections = ConnectionTurns(options.get("pool_size"))
        if in_transactions:
            limit_transactions(self._engine.sync_engine)
        self._plain = None if in_transactions else PostgresReads(self._engine.dialect)

    @property
    def pool(self) -> Pool:
        """The connections."""
        return self._engine.pool

    async def fetch(self, statement: Statement, parameters: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """See `Snapshots`."""
        try:
            return await self._fetch(statement, parameters)
        except Exception as error:
            if refusal(error) is None:
                raise
        with explained_errors():
            return await self._fetch(statement, parameters)

    async def fetch_raw(self, statement: Statement, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `Snapshots`."""
        if self._plain is None:
            return await self.fetch(statement, parameters)
        try:
            async with self._connected() as connection:
                return await self._plain.fetch(connection, statement, parameters)
        except Exception as error:
            if isinstance(error, Unavailable):
                raise
        # Whatever is the matter, this says it.
        return await self.fetch(statement, parameters)

    async def _fetch(self, statement: Statement, parameters: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        async with self._connected() as connection:
            return _rows(await connection.execute(statement, parameters))

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        async with self._connections.connection():
            try:
                connection = await self._engine.connect()
            except (OSError, DBAPIError, PoolTimeoutError) as error:
                raise unavailable() from error
            try:
                yield connection
            finally:
                # Shielded: the pool would close a connection whose return is cancelled, and log an error.
                await asyncio.shield(connection.close())

    async def close(self) -> None:
        """See `Snapshots`."""
        await self._engine.dispose()


def _rows(result: CursorResult[Any]) -> list[dict[str, Any]]:
    names = list(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]
