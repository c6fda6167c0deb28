"""The history of auth's schema."""

from sqlalchemy import inspect

from services.auth.tables import metadata
from services.common.db.database import Database
from services.common.db.migrate import downgrade_database, schema_differences, upgrade_database


async def tables(url: str) -> set[str]:
    database = Database(url, "auth")
    try:
        async with database.read() as connection:
            return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
    finally:
        await database.close()


async def test_the_schema_upgrades_from_empty_matches_its_tables_and_downgrades(database_url: str) -> None:
    await upgrade_database("auth", database_url)
    assert set(metadata.tables) <= await tables(database_url)
    assert await schema_differences("auth", database_url) == []
    await downgrade_database("auth", database_url)
    assert not set(metadata.tables) & await tables(database_url)
    await upgrade_database("auth", database_url)
    assert await schema_differences("auth", database_url) == []
