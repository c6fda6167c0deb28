"""A few connections to each database, for each login to it: nobody acts with the connection of another."""

import asyncio
import contextlib
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.common.db.connection_checks import ping_idle_connections
from services.common.errors import Unavailable
from services.common.group_lines import wait_without_turn
from services.memory.domain.backends import MemoryBackend, PgvectorConfig
from services.memory.stores.pgvector.connector import Connector, required
from services.memory.stores.pgvector.dialect import DRIVER, PgvectorDialect
from services.memory.stores.pgvector.failures import LoginRefused, explained, failure_of
from services.memory.stores.pgvector.logins import Login, Logins, refused
from services.memory.stores.pgvector.watched import WatchedConnection

_PoolKey: TypeAlias = tuple[str, str, PgvectorConfig, str, bytes]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many connections, and for how long; see `MemorySettings`."""

    connections: int
    databases: int
    group_databases: int
    idle_seconds: float
    wait_seconds: float


@dataclass(slots=True)
class _Pool:
    engine: AsyncEngine
    login: Login
    users: int = 0
    used_at: float = field(default=0.0)


class ConnectionPools:
    """Gives out connections; a pool that nobody has used for a while is closed."""

    def __init__(
        self, logins: Logins, connector: Connector, limits: PoolLimits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.logins = logins
        self.connector = connector
        self._limits = limits
        self._clock = clock
        self._pools: OrderedDict[_PoolKey, _Pool] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pools)

    @contextlib.asynccontextmanager
    async def connection(self, backend: MemoryBackend, isolation: str = "") -> AsyncIterator[AsyncConnection]:
        """Yield a connection to a backend's database as the calling principal; without a transaction.

        Raises:
            CoxswainError: there is no credential, the database does not answer, or does not do what is asked.
        """
        # Each statement waits for somebody else's machine.
        wait_without_turn()
        config = config_of(backend)
        login = await self.logins.find(config)
        try:
            pool, connection = await self._connected(backend, login)
        except LoginRefused:
            self.logins.forget(config)
            if not login.from_cache:
                raise refused(config, login) from None
            login = await self.logins.find(config)
            try:
                pool, connection = await self._connected(backend, login)
            except LoginRefused:
                self.logins.forget(config)
                raise refused(config, login) from None
        try:
            async with contextlib.aclosing(connection):
                if isolation:
                    await connection.execution_options(isolation_level=isolation)
                yield connection
        except LoginRefused:
            # Behind a pooler the server sees a login only when a statement comes.
            self.logins.forget(config)
            raise refused(config, login) from None
        finally:
            self._leave(pool)

    async def _connected(self, backend: MemoryBackend, login: Login) -> tuple[_Pool, AsyncConnection]:
        """Return a connection, and its pool, which counts it as a user."""
        pool, unused = self._pool(backend, login)
        # Before anything is waited for: nobody else may take out what is in use.
        pool.users += 1
        try:
            await _dispose(unused)
            with explained(config_of(backend), login.user):
                return pool, await pool.engine.connect()
        except BaseException:
            self._leave(pool)
            raise

    def _leave(self, pool: _Pool) -> None:
        pool.users -= 1
        pool.used_at = self._clock()

    def _pool(self, backend: MemoryBackend, login: Login) -> tuple[_Pool, list[AsyncEngine]]:
        """Return the pool of a login, and engines that were taken out for it: to be disposed of."""
        config = config_of(backend)
        password = hashlib.sha256(login.password.encode()).digest()
        key = (backend.group_id, backend.id, config, login.user, password)
        unused: list[AsyncEngine] = []
        pool = self._pools.get(key)
        if pool is None:
            unused = self._make_room(backend.group_id)
            pool = self._pools[key] = _Pool(self._engine(config, login), login, used_at=self._clock())
        self._pools.move_to_end(key)
        return pool, unused

    def _make_room(self, group_id: str) -> list[AsyncEngine]:
        """Take out the pools whose time is over, and when there are too many still the one used longest ago."""
        unused = self._unused()
        left = [key for key in self._pools if key not in unused]
        own = [key for key in left if key[0] == group_id]
        # Nothing is taken out before all is chosen: who is refused disposes of nothing.
        if len(own) >= self._limits.group_databases:
            unused.append(self._idle(own, "too many databases of your group, or logins to them, are in use at once"))
        elif len(left) >= self._limits.databases:
            unused.append(self._idle(left, "too many databases of groups are in use at once"))
        return self._take_out(unused)

    def _idle(self, keys: Sequence[_PoolKey], problem: str) -> _PoolKey:
        """Return the pool of those that nobody has used for the longest time."""
        idle = next((key for key in keys if not self._pools[key].users), None)
        if idle is None:
            raise Unavailable(f"{problem}; try again in a moment", metadata={"dependency": "database"}, retry_after=1.0)
        return idle

    def _unused(self) -> list[_PoolKey]:
        oldest = self._clock() - self._limits.idle_seconds
        return [key for key, pool in self._pools.items() if not pool.users and pool.used_at < oldest]

    def _take_out(self, keys: Sequence[_PoolKey]) -> list[AsyncEngine]:
        return [self._pools.pop(key).engine for key in keys]

    def _engine(self, config: PgvectorConfig, login: Login) -> AsyncEngine:
        async def connect() -> Any:
            connection, extension = await self.connector.open(config, login)
            try:
                dialect.vector_version = required(extension, config).version
            except BaseException:
                connection.terminate()
                raise
            return connection

        engine = create_async_engine(
            f"{DRIVER}://",
            async_creator=connect,
            pool_size=self._limits.connections,
            max_overflow=0,
            pool_timeout=self._limits.wait_seconds,
            # Texts of failures would hold what was to be stored.
            hide_parameters=True,
        )
        dialect = cast("PgvectorDialect", engine.sync_engine.dialect)

        @event.listens_for(engine.sync_engine, "handle_error")
        def explain(context: ExceptionContext) -> BaseException | None:
            # Here, not around what callers do with a connection: that may fail in a database that is not this one.
            error = context.sqlalchemy_exception or context.original_exception
            return failure_of(error, config, login.user)

        @event.listens_for(engine.sync_engine, "checkin")
        def let_go(connection: Any, _record: object) -> None:
            # None: it has ended. To isinstance every connection of asyncpg is one of each class.
            if connection is not None and type(connection.driver_connection) is WatchedConnection:
                connection.driver_connection.let_go_of_answer()

        ping_idle_connections(engine.sync_engine)
        return engine

    async def close_idle(self) -> None:
        """Close the pools that nobody has used for a while."""
        await _dispose(self._take_out(self._unused()))

    async def close(self) -> None:
        """Close all connections."""
        pools, self._pools = self._pools, OrderedDict()
        await _dispose([pool.engine for pool in pools.values()])


async def _dispose(engines: Sequence[AsyncEngine]) -> None:
    await asyncio.gather(*(engine.dispose() for engine in engines))


def config_of(backend: MemoryBackend) -> PgvectorConfig:
    """Return where the database of a backend is that has one."""
    assert backend.pgvector is not None
    return backend.pgvector
