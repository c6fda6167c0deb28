"""Making what a backend keeps in its database: the extension, the schema with its tables, and indexes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from services.memory.domain.backends import MemoryBackend, PgvectorConfig
from services.memory.stores.pgvector.connector import Connector, Extension, prepare, required
from services.memory.stores.pgvector.failures import (
    LoginRefused,
    explained,
    extension_missing,
    quoted,
    rights_missing,
)
from services.memory.stores.pgvector.indexes import NamespaceIndex, build_index, large_namespaces
from services.memory.stores.pgvector.logins import Login, Logins, refused
from services.memory.stores.pgvector.upgrades import TableUpgrades, newest_revision

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
        self._upgrades = TableUpgrades(connector, seconds=seconds)
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
        try:
            async with aclosing(self._steps(backend, config, login)) as steps:
                async for progress in steps:
                    yield progress
        except LoginRefused:
            raise refused(config, login) from None

    async def _steps(
        self, backend: MemoryBackend, config: PgvectorConfig, login: Login
    ) -> AsyncGenerator[Progress, None]:
        """Do one step after the other; the time in which the reader takes what is yielded is nobody's step."""
        yield Progress("connecting", 0, 3, 0)
        async with self._step(config, login):
            connection, extension = await self._connector.open(config, login, unlimited=True)
        made = 0
        try:
            yield Progress("installing the extension", 0, 3, made)
            if extension is None:
                async with self._step(config, login):
                    extension = await _install(connection, config)
                made += 1
            yield Progress("making the tables", 1, 3, made)
            async with self._step(config, login):
                made += await self._upgrade(connection, config, login)
            async with self._step(config, login):
                indexes = await large_namespaces(connection, backend.group_id, self._exact_rows)
            total = 3 + len(indexes)
            for done, index in enumerate(indexes):
                yield Progress(f"building index {index.name}", 2 + done, total, made)
                async with self._step(config, login):
                    made += await build_index(connection, index, extension.version)
            yield Progress("ready", total, total, made)
        finally:
            await self._connector.close(connection)

    @asynccontextmanager
    async def _step(self, config: PgvectorConfig, login: Login) -> AsyncIterator[None]:
        with explained(config, login.user):
            async with asyncio.timeout(self._seconds):
                yield

    async def _upgrade(self, connection: "asyncpg.Connection[Any]", config: PgvectorConfig, login: Login) -> bool:
        """Bring the tables to the newest revision, and return whether they were not there or of another one."""
        if await _current_revision(connection) == await asyncio.to_thread(newest_revision):
            return False
        exists = await connection.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = $1", config.schema)
        if not exists:
            try:
                await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(config.schema)}")
            except asyncpg.InsufficientPrivilegeError:
                raise rights_missing(config, login.user) from None
        await self._upgrades.run(config, login)
        return True

    def close(self) -> None:
        """Begin no other upgrade of tables."""
        self._upgrades.close()


async def _install(connection: "asyncpg.Connection[Any]", config: PgvectorConfig) -> Extension:
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    except _CANNOT_INSTALL:
        raise extension_missing(config) from None
    return required(await prepare(connection, config), config)


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
