"""One service's database: SQLite for a single machine, PostgreSQL for several."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import CursorResult, Select, create_engine, event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from services.common.errors import Unavailable

_READ_ONLY = "coxswain_read_only"
_SQLITE_READERS = 2


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
    """Gives out transactions, and single statements that need none.

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
            self._snapshots: _SqliteSnapshots | None = _SqliteSnapshots(self.url, options)
        else:
            if not null_pool:
                options |= {"pool_size": pool_size, "max_overflow": pool_size, "pool_pre_ping": True}
            self.engine = create_async_engine(
                self.url, connect_args={"server_settings": {"search_path": schema}}, **options
            )
            self._snapshots = None
            self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reader = self.engine.execution_options(**{_READ_ONLY: True})

    async def fetch(self, statement: Select[Any], parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows of one SELECT, a snapshot by itself: a transaction around it costs more than it does.

        Raises:
            Unavailable: the database does not answer.
        """
        if self._snapshots is not None:
            return await self._snapshots.fetch(statement, parameters)
        async with _connected(self._autocommit) as connection:
            return _rows(await connection.execute(statement, parameters))

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that only reads.

        Raises:
            Unavailable: the database does not answer.
        """
        async with _connected(self._reader) as connection, connection.begin():
            yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that commits when the block ends and rolls back when it raises.

        Raises:
            Unavailable: the database does not answer, or did not confirm the commit.
        """
        async with (
            self._write_lock or contextlib.nullcontext(),
            _connected(self.engine) as connection,
            connection.begin(),
        ):
            yield connection

    async def close(self) -> None:
        """Close all connections."""
        if self._snapshots is not None:
            self._snapshots.close()
        await self.engine.dispose()


class _SqliteSnapshots:
    """Reads in a thread, so that a statement is one change of threads and not one for each step of it."""

    def __init__(self, url: URL, options: Mapping[str, Any]) -> None:
        self._engine: Engine = create_engine(
            url.set(drivername="sqlite"),
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": 30, "check_same_thread": False},
            **options,
        )
        self._threads = ThreadPoolExecutor(_SQLITE_READERS, thread_name_prefix="coxswain-read")

    async def fetch(self, statement: Select[Any], parameters: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, statement, parameters)
        except DBAPIError as error:
            if _unanswered(error) or "unable to open" in str(error.orig):
                raise _unavailable() from error
            raise

    def _fetch(self, statement: Select[Any], parameters: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            return _rows(connection.execute(statement, parameters))

    def close(self) -> None:
        self._threads.shutdown()
        self._engine.dispose()


@contextlib.asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    try:
        connection = await engine.connect()
    except (OSError, DBAPIError) as error:
        raise _unavailable() from error
    try:
        async with contextlib.aclosing(connection):
            yield connection
    except DBAPIError as error:
        if _unanswered(error):
            raise _unavailable() from error
        raise


def _rows(result: CursorResult[Any]) -> list[dict[str, Any]]:
    names = list(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]


def _unanswered(error: DBAPIError) -> bool:
    return error.connection_invalidated or "database is locked" in str(error.orig)


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
