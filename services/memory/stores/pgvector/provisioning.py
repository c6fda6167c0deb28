"""Making what a backend keeps in its database: the extension, the schema with its tables, and indexes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from services.common.db.migrate import alembic_config
from services.common.db.named_locks import lock_name
from services.memory.domain.backends import MemoryBackend, PgvectorConfig
from services.memory.stores.pgvector.connector import Connector, Extension, prepare, required
from services.memory.stores.pgvector.dialect import DRIVER
from services.memory.stores.pgvector.failures import (
    LoginRefused,
    explained,
    extension_missing,
    quoted,
    rights_missing,
)
from services.memory.stores.pgvector.indexes import NamespaceIndex, build_index, large_namespaces
from services.memory.stores.pgvector.logins import Login, Logins, refused

LEAST_VERSION: Final = (0, 5)
"""Since then pgvector has HNSW indexes."""

_CANNOT_INSTALL: Final = (
    # Not a superuser, not offered by the server, its files are not there.
    asyncpg.InsufficientPrivilegeError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.UndefinedFileError,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being made, and how many of all steps are done; `made` counts those that this call did."""

    text: str
    done: int
    total: int
    made: int


class Provisioner:
    """Makes what is missing with the rights the caller's login has."""

    def __init__(self, logins: Logins, connector: Connector, *, exact_rows: int, seconds: float) -> None:
        """Namespaces of more than `exact_rows` records get an index; each step may take `seconds`."""
        self._logins = logins
        self._connector = connector
        self._exact_rows = exact_rows
        self._seconds = seconds

    async def login(self, config: PgvectorConfig) -> Login:
        """Return the caller's login to a database, found anew."""
        self._logins.forget(config)
        return await self._logins.find(config)

    async def provision(self, backend: MemoryBackend, config: PgvectorConfig) -> AsyncIterator[Progress]:
        """Make what is missing; repeating it changes nothing.

        Raises:
            CoxswainError: something cannot be made; its text says what to run instead.
        """
        login = await self.login(config)
        yield Progress("connecting", 0, 3, 0)
        try:
            with explained(config, login.user):
                async with asyncio.timeout(self._seconds):
                    connection, extension = await self._connector.open(config, login, unlimited=True)
        except LoginRefused:
            raise refused(config, login) from None
        made = 0
        try:
            yield Progress("installing the extension", 0, 3, made)
            with explained(config, login.user):
                async with asyncio.timeout(self._seconds):
                    if extension is None:
                        extension = await _install(connection, config)
                        made += 1
                    yield Progress("making the tables", 1, 3, made)
                    if await _current_revision(connection) != await asyncio.to_thread(newest_revision):
                        await self._upgrade(connection, config, login)
                        made += 1
                async with asyncio.timeout(self._seconds):
                    indexes = await large_namespaces(connection, backend.group_id, self._exact_rows)
            total = 3 + len(indexes)
            for done, index in enumerate(indexes):
                yield Progress(f"building index {index.name}", 2 + done, total, made)
                with explained(config, login.user):
                    async with asyncio.timeout(self._seconds):
                        made += await build_index(connection, index, extension.version)
            yield Progress("ready", total, total, made)
        finally:
            with suppress(Exception):
                await connection.close(timeout=1)

    async def _upgrade(self, connection: "asyncpg.Connection[Any]", config: PgvectorConfig, login: Login) -> None:
        """Bring the tables to the newest revision, in a thread with a loop of its own: migrations compute."""
        exists = await connection.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = $1", config.schema)
        if not exists:
            try:
                await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(config.schema)}")
            except asyncpg.InsufficientPrivilegeError:
                raise rights_missing(config, login.user) from None
        await asyncio.to_thread(lambda: asyncio.run(self._migrate(config, login)))

    async def _migrate(self, config: PgvectorConfig, login: Login) -> None:
        async def connect() -> Any:
            connection, extension = await self._connector.open(config, login, unlimited=True)
            required(extension, config)
            return connection

        await upgrade_tables(connect)


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


async def _install(connection: "asyncpg.Connection[Any]", config: PgvectorConfig) -> Extension:
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    except _CANNOT_INSTALL:
        raise extension_missing(config) from None
    return required(await prepare(connection, config), config)


def newest_revision() -> str:
    """Return the revision of tables that this version needs. To be called in a thread: it reads files."""
    return str(ScriptDirectory.from_config(alembic_config("memory")).get_current_head())


async def _current_revision(connection: "asyncpg.Connection[Any]") -> str | None:
    """Return the revision of the tables there are; None without any."""
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
    return revision


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """What was found in a database."""

    server: str
    """Version of PostgreSQL."""
    extension: Extension | None
    has_schema: bool
    revision: str | None
    """Of the tables; None without any."""
    lacking: Sequence[str]
    """Rights that the user does not have on the tables."""
    indexes: Sequence[NamespaceIndex]
    """Those that the group's large namespaces need."""
    valid_indexes: Sequence[str]
    """Names of those that are there and can be used."""


async def inspect(
    connection: "asyncpg.Connection[Any]", group_id: str, config: PgvectorConfig, rows: int
) -> DatabaseState:
    """Look at everything that a backend needs, and change nothing."""
    extension = await prepare(connection, config)
    has_schema = bool(await connection.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = $1", config.schema))
    may_use = has_schema and await connection.fetchval("SELECT has_schema_privilege($1, 'USAGE')", config.schema)
    revision: str | None = None
    lacking: list[str] = [] if may_use or not has_schema else ["USAGE on the schema"]
    indexes: Sequence[NamespaceIndex] = ()
    valid: Sequence[str] = ()
    if may_use:
        lacking += await _missing_rights(connection, config)
        if not lacking:
            revision = await _current_revision(connection)
    if revision is not None:
        indexes = await large_namespaces(connection, group_id, rows)
        found = await connection.fetch(
            "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.indisvalid AND n.nspname = $1 "
            "AND c.relname = ANY($2::text[])",
            config.schema,
            [index.name for index in indexes],
        )
        valid = [row["relname"] for row in found]
    server: str = await connection.fetchval("SHOW server_version")
    return DatabaseState(server, extension, has_schema, revision, lacking, indexes, valid)


async def _missing_rights(connection: "asyncpg.Connection[Any]", config: PgvectorConfig) -> list[str]:
    rows = await connection.fetch(
        "SELECT c.relname, r.wanted FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r(wanted) "
        "WHERE n.nspname = $1 AND c.relkind = 'r' AND NOT has_table_privilege(c.oid, r.wanted) ORDER BY 1, 2",
        config.schema,
    )
    return [f"{row['wanted']} on {row['relname']}" for row in rows]
