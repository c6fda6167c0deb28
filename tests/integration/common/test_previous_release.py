"""What tells whether a migration leaves the previous release its schema."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import BigInteger, Column, ForeignKey, Index, MetaData, String, Table, UniqueConstraint, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from services.common.db.database import Database, async_url
from services.common.db.types import JsonDocument, UtcDateTime
from tests.support import previous_release
from tests.support.former_statements import insert_rows, use_rows
from tests.support.previous_release import former_tables
from tests.support.service_tables import make_service_tables

TABLES = MetaData()
Table("places", TABLES, Column("id", String(64), primary_key=True), Column("code", String(8), unique=True))
Table(
    "things",
    TABLES,
    Column("id", String(64), primary_key=True),
    Column("place", String(64), ForeignKey("places.id"), nullable=False),
    Column("label", String(64)),
    Column("number", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False, server_default="small"),
    Column("facts", JsonDocument),
    Column("at", UtcDateTime),
    UniqueConstraint("place", "number"),
    Index(
        "uq_things_label", "label", unique=True, sqlite_where=text("at IS NULL"), postgresql_where=text("at IS NULL")
    ),
)

KEEPS = [
    "ALTER TABLE things ADD COLUMN colour varchar(8)",
    "ALTER TABLE things ADD COLUMN colour varchar(8) NOT NULL DEFAULT 'red'",
    "CREATE TABLE others (id varchar(8) PRIMARY KEY)",
    "CREATE INDEX ix_things_number ON things (number)",
]
BREAKS = [
    "DROP TABLE things",
    "ALTER TABLE things RENAME TO items",
    "ALTER TABLE things RENAME COLUMN number TO amount",
    "ALTER TABLE things DROP COLUMN facts",
    "DROP INDEX uq_things_label",
]
BREAKS_OF_POSTGRESQL = [
    "ALTER TABLE things ALTER COLUMN label SET NOT NULL",
    "ALTER TABLE things ALTER COLUMN kind DROP DEFAULT",
    "ALTER TABLE things ALTER COLUMN label TYPE varchar(63)",
    "ALTER TABLE things ALTER COLUMN number TYPE integer USING 0",
    "ALTER TABLE things ALTER COLUMN facts TYPE varchar",
    "ALTER TABLE things ADD COLUMN colour varchar(8) NOT NULL",
    "ALTER TABLE things ADD CONSTRAINT ck_things_number CHECK (number < 100)",
    "ALTER TABLE things DROP CONSTRAINT things_place_number_key",
]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Return a connection to a schema of these tables, in a transaction."""
    engine = create_async_engine(async_url(database_url))
    async with engine.begin() as connected:
        await connected.run_sync(TABLES.create_all)
        yield connected
    await engine.dispose()


async def test_statements_of_the_former_tables_tell_what_breaks_them(connection: AsyncConnection) -> None:
    postgresql = connection.dialect.name == "postgresql"
    for change in KEEPS:
        async with connection.begin_nested() as savepoint:
            await connection.execute(text(change))
            await connection.run_sync(insert_rows, TABLES)
            await connection.run_sync(use_rows, TABLES)
            await savepoint.rollback()
    for change in BREAKS + (BREAKS_OF_POSTGRESQL if postgresql else []):
        savepoint = await connection.begin_nested()
        await connection.execute(text(change))
        with pytest.raises((DBAPIError, AssertionError)):
            await connection.run_sync(insert_rows, TABLES)
            await connection.run_sync(use_rows, TABLES)
            pytest.fail(f"nothing tells of: {change}")
        await savepoint.rollback()


async def test_without_a_history_the_schema_before_the_newest_migration_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previous_release, "ROOT", tmp_path)
    monkeypatch.setattr(previous_release, "ARCHIVE", tmp_path / "none.tar")
    with pytest.warns(UserWarning, match="auth: the schema before its newest migration stands in: this is not a clone"):
        release = former_tables("auth", tmp_path / "former")
    url = f"sqlite:///{tmp_path / 'auth.db'}"
    make_service_tables("auth", url)
    database = Database(url, "auth")
    async with database.write() as connection:
        tables = await connection.run_sync(release.of)
        assert {"groups", "memberships", "signing_keys"} <= set(tables.tables)
        await connection.run_sync(insert_rows, tables)
        await connection.run_sync(use_rows, tables)
    await database.close()
    assert int(release.revision) >= 7
