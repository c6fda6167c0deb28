"""One service's database: SQLite for a single machine, PostgreSQL for several."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from services.common.errors import Unavailable

_READ_ONLY = "coxswain_read_only"


def async_url(url: str) -> URL:
    """Return the URL with the asyncio driver of its database.

    Raises:
        ValueError: the database is neither SQLite nor PostgreSQL.
    """
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    if backend not in drivers:
        raise ValueError(f'a database URL has to begin with "sqlite" or "postgresql", not "{backend}"')
    return parsed.set(drivername=drivers[backend])


class Database:
    """Gives out transactions.

    On SQLite the file is in WAL mode, writers begin with IMMEDIATE and take turns within the process, so that they
    never fail on a lock they could have waited for. On PostgreSQL every connection sees the service's own schema only.
    """

    def __init__(self, url: str, schema: str, *, null_pool: bool = False, pool_size: int = 5) -> None:
        """`schema` is the PostgreSQL schema; `null_pool` opens a connection for each transaction."""
        self.url = async_url(url)
        self.schema = schema
        self.dialect = self.url.get_backend_name()
        self._write_lock = asyncio.Lock() if self.dialect == "sqlite" else None
        options: dict[str, Any] = {"poolclass": NullPool} if null_pool else {}
        if self.dialect == "sqlite":
            if self.url.database:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine: AsyncEngine = create_async_engine(self.url, connect_args={"timeout": 30}, **options)
            _configure_sqlite(self.engine)
        else:
            if not null_pool:
                options |= {"pool_size": pool_size, "max_overflow": pool_size, "pool_pre_ping": True}
            self.engine = create_async_engine(
                self.url, connect_args={"server_settings": {"search_path": schema}}, **options
            )
        self._reader = self.engine.execution_options(**{_READ_ONLY: True})

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that only reads.

        Raises:
            Unavailable: the database does not answer.
        """
        async with self._transaction(self._reader) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that commits when the block ends and rolls back when it raises.

        Raises:
            Unavailable: the database does not answer, or did not confirm the commit.
        """
        async with self._write_lock or contextlib.nullcontext(), self._transaction(self.engine) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        try:
            connection = await engine.connect()
        except (OSError, DBAPIError) as error:
            raise _unavailable() from error
        try:
            async with contextlib.aclosing(connection), connection.begin():
                yield connection
        except DBAPIError as error:
            if error.connection_invalidated or "database is locked" in str(error.orig):
                raise _unavailable() from error
            raise

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()


def _unavailable() -> Unavailable:
    return Unavailable(
        "the database does not answer; try again in a moment", metadata={"dependency": "database"}, retry_after=1.0
    )


def _configure_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN comes too late and is never IMMEDIATE: we send ours.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA busy_timeout=30000")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
