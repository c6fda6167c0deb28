"""Bringing the tables of a database to the newest revision: in threads, each with a loop of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import asyncpg
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from services.common.db.migrate import alembic_config
from services.common.db.named_locks import lock_name
from services.memory.domain.backends import PgvectorConfig
from services.memory.stores.pgvector.connector import Connector, required
from services.memory.stores.pgvector.dialect import DRIVER
from services.memory.stores.pgvector.logins import Login

_THREADS: Final = 2
"""Migrations compute, and wait for databases that may never answer: what else needs a thread does not share these."""


class TableUpgrades:
    """Upgrades tables of databases; one that is no longer waited for, or takes too long, ends with its connection."""

    def __init__(self, connector: Connector, *, seconds: float) -> None:
        """`seconds` bounds what one upgrade may take."""
        self._connector = connector
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pgvector-upgrade")

    async def run(self, config: PgvectorConfig, login: Login) -> None:
        """Bring the tables of a database to the newest revision.

        Raises:
            TimeoutError: the database takes too long.
            Exception: what asyncpg, SQLAlchemy and the network fail with; see `failures`.
        """
        upgrade = _Upgrade(self._connector, config, login, self._seconds)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, upgrade.run)
        finally:
            upgrade.stop()

    def close(self) -> None:
        """Begin no other upgrade; those that run end with the calls that wait for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Upgrade:
    """One upgrade: `run` is called in a thread, and `stop` in any other."""

    def __init__(self, connector: Connector, config: PgvectorConfig, login: Login, seconds: float) -> None:
        self._connector = connector
        self._config = config
        self._login = login
        self._seconds = seconds
        self._opened: list[asyncpg.Connection[Any]] = []
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._is_stopped = False

    def run(self) -> None:
        """Upgrade, and return when that is done or was stopped."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """End it, if it has not ended."""
        self._is_stopped = True
        if self._running is not None:
            loop, task = self._running
            # The loop is closed when the upgrade has ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running = (asyncio.get_running_loop(), task)
        if self._is_stopped:
            return
        work = asyncio.ensure_future(upgrade_tables(self._connect))
        try:
            async with asyncio.timeout(self._seconds):
                await asyncio.wait([work])
        finally:
            # First the connection: what is cancelled rolls back, and would wait for a server that does not answer.
            for connection in self._opened:
                connection.terminate()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        work.result()

    async def _connect(self) -> Any:
        connection, extension = await self._connector.open(self._config, self._login, unlimited=True)
        self._opened.append(connection)
        required(extension, self._config)
        return connection


async def upgrade_tables(connect: Callable[[], Awaitable[Any]]) -> None:
    """Bring the tables that a connection sees to the newest revision; who does so at once takes turns."""
    engine = create_async_engine(f"{DRIVER}://", async_creator=connect, poolclass=NullPool, hide_parameters=True)
    try:
        async with engine.begin() as connection:
            # A migration may compute for minutes between two statements.
            await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            await lock_name(connection, "coxswain-migrate")
            await connection.run_sync(lambda sync: command.upgrade(alembic_config("memory", sync), "head"))
    finally:
        await engine.dispose()


def newest_revision() -> str:
    """Return the revision of tables that this version needs. To be called in a thread: it reads files."""
    return str(ScriptDirectory.from_config(alembic_config("memory")).get_current_head())
