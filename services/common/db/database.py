"""One service's database: SQLite for a single machine, PostgreSQL for several."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Select, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, Pool

from services.common.db.connection_budget import pool_name
from services.common.db.connection_checks import ping_idle_connections
from services.common.db.connection_turns import ConnectionTurns
from services.common.db.failures import explained_errors, unavailable
from services.common.db.point_reads import PlainPointRead, PointRead, SqlitePointRead
from services.common.db.sessions import IDLE_SESSION, NOTHING_PREPARED, POSTGRES_SESSION, limit_transactions
from services.common.db.snapshots import PostgresSnapshots, SqliteSnapshots
from services.common.db.sqlite_connection import BEGIN_WRITING, open_sqlite
from services.common.db.statement import Statement
from services.common.group_turns import GroupTurns, group_of_work

_READ_ONLY = "coxswain_read_only"
# In transactions, at once. SQLAlchemy's pool has fifteen connections; one is the writer's.
_SQLITE_READS = 10
_URL_FORMS = "sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME"


def async_url(url: str) -> URL:
    """Return the URL with the asyncio driver of its database.

    Raises:
        ValueError: it is not a URL, or the database is neither SQLite nor PostgreSQL.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError(f"must be a database URL: {_URL_FORMS}") from None
    backend = parsed.get_backend_name()
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    if backend not in drivers:
        raise ValueError(f'must be the URL of an SQLite or PostgreSQL database, not "{backend}": {_URL_FORMS}')
    return parsed.set(drivername=drivers[backend])


def described_url(url: str) -> str:
    """Return which database a URL leads to, for people: its file, or its host, port and name."""
    parsed = async_url(url)
    if parsed.get_backend_name() == "sqlite":
        return parsed.database or "in memory"
    host = parsed.host or str(parsed.query.get("host", "localhost"))
    return f"{host}:{parsed.port or 5432}/{parsed.database or ''}"


def sqlite_file(url: str) -> Path | None:
    """Return the file of a database; None where it is PostgreSQL's, or in memory."""
    parsed = async_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


class Database:
    """Gives out transactions, and single statements that need none.

    On SQLite the file is in WAL mode, writers begin with IMMEDIATE and take turns within the process, so that they
    never fail on a lock they could have waited for. On PostgreSQL every connection sees the service's own schema only.
    """

    def __init__(
        self, url: str, schema: str, *, null_pool: bool = False, pooler: bool = False, pool_size: int = 5
    ) -> None:
        """`schema` is the PostgreSQL schema; `null_pool` opens a connection for each transaction.

        With `pooler`, which costs some round trips, PostgreSQL may be behind one that gives sessions to transactions,
        such as PgBouncer. `pool_size` bounds the connections to PostgreSQL in transactions, and those beside any.
        """
        self.url = async_url(url)
        self.schema = schema
        self.dialect = self.url.get_backend_name()
        self._writer = GroupTurns(1) if self.dialect == "sqlite" else None
        options: dict[str, Any] = {"poolclass": NullPool} if null_pool else {}
        self._snapshots: PostgresSnapshots | SqliteSnapshots
        if self.dialect == "sqlite":
            if self.url.database:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            self._snapshots = SqliteSnapshots(self.url)
            self.engine: AsyncEngine = create_async_engine(
                self.url, async_creator=lambda: open_sqlite(self.url.database or ":memory:"), **options
            )
            _configure_sqlite(self.engine)
        else:
            settings = {"search_path": schema, **POSTGRES_SESSION, **IDLE_SESSION}
            if not null_pool:
                # As many for transactions as for single reads.
                settings["application_name"] = pool_name(schema, 2 * pool_size)
            options["connect_args"] = NOTHING_PREPARED if pooler else {"server_settings": settings}
            # Poolers refuse a search path at the start of a session.
            options["execution_options"] = {"schema_translate_map": {None: schema}}
            if not null_pool:
                # Connections open on demand. No overflow: those connections would be closed after each use.
                options |= {"pool_size": pool_size, "max_overflow": 0, "pool_use_lifo": True}
            self._snapshots = PostgresSnapshots(self.url, options, in_transactions=pooler)
            self.engine = create_async_engine(self.url, **options)
            if pooler:
                limit_transactions(self.engine.sync_engine)
            if not null_pool:
                ping_idle_connections(self.engine.sync_engine)
        connections = _SQLITE_READS if self.dialect == "sqlite" else pool_size
        self._connections = ConnectionTurns(None if null_pool else connections)
        self._point_reads: list[PointRead] = []
        self._reader = self.engine.execution_options(**{_READ_ONLY: True})
        # SQLite's writers begin themselves, and what goes through a pooler has to have one session.
        alone = self.dialect == "postgresql" and not pooler
        self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT") if alone else self.engine

    async def fetch(self, statement: Statement, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows of one SELECT by column names: what `read` would yield, for much less.

        Raises:
            Unavailable: the database does not answer.
        """
        return await self._snapshots.fetch(statement, parameters)

    async def fetch_raw(self, statement: Statement, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what `fetch` does with values as the driver gives them, for less than half of that.

        The statement has to be one that is made once, as its text is kept.

        Raises:
            Unavailable: the database does not answer.
        """
        return await self._snapshots.fetch_raw(statement, parameters)

    def point_read(self, statement: Select[Any], parameters: Sequence[str]) -> PointRead:
        """Return a way to read one row by the whole of its key for as little as the database allows.

        `parameters` are the names of the statement's parameters, in the order in which a key's parts will be given.
        """
        plain = PlainPointRead(self._snapshots, statement, parameters)
        read = SqlitePointRead(self.url, plain, statement, parameters) if self.dialect == "sqlite" else plain
        self._point_reads.append(read)
        return read

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that only reads.

        Raises:
            Unavailable: the database does not answer.
        """
        async with self._connections.connection(), _connected(self._reader) as connection, connection.begin():
            yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that commits when the block ends and rolls back when it raises.

        Raises:
            Unavailable: the database does not answer, or did not confirm the commit.
        """
        async with self._writing(self.engine) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def write_once(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection for one statement, which is as whole as a transaction and costs a third of one.

        It may be committed before the block ends, also when that raises.

        Raises:
            Unavailable: the database does not answer, or did not confirm the commit.
        """
        async with self._writing(self._single) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _writing(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        # Whoever is SQLite's writer waits in no other line: everybody waits for it.
        turn = self._writer.place(group_of_work()) if self._writer else self._connections.connection()
        async with turn, _connected(engine) as connection, connection.begin():
            yield connection

    def pools(self) -> dict[str, Pool]:
        """Return the pools of connections by what they are for."""
        return {"transactions": self.engine.pool, "reads": self._snapshots.pool}

    async def close(self) -> None:
        """Close all connections."""
        for read in self._point_reads:
            await read.close()
        await self._snapshots.close()
        await self.engine.dispose()


@contextlib.asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    try:
        connection = await engine.connect()
    except (OSError, DBAPIError, PoolTimeoutError) as error:
        raise unavailable() from error
    with explained_errors():
        try:
            yield connection
        finally:
            # Shielded: the pool would close a connection whose return is cancelled, and log an error.
            await asyncio.shield(connection.close())


def _configure_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN comes too late and is never IMMEDIATE: we send ours.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else BEGIN_WRITING)
