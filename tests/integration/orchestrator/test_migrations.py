"""The history of the orchestrator's schema."""

from sqlalchemy import inspect

from services.common.db.database import Database
from services.common.db.migrate import downgrade_database, schema_differences, upgrade_database
from services.orchestrator.tables import metadata


async def tables(url: str) -> set[str]:
    database = Database(url, "orchestrator")
    try:
        async with database.read() as connection:
            return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
    finally:
        await database.close()


async def test_the_schema_upgrades_from_empty_matches_its_tables_and_downgrades(database_url: str) -> None:
    await upgrade_database("orchestrator", database_url)
    assert set(metadata.tables) <= await tables(database_url)
    assert await schema_differences("orchestrator", database_url) == []
    await downgrade_database("orchestrator", database_url)
    assert not set(metadata.tables) & await tables(database_url)
    await upgrade_database("orchestrator", database_url)
    assert await schema_differences("orchestrator", database_url) == []
