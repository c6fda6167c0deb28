"""The history of memory's database."""

from services.common.db.migrate import downgrade_database, pending_revision, schema_differences, upgrade_database


async def test_the_schema_can_be_made_taken_back_and_made_again_and_agrees_with_the_tables(database_url: str) -> None:
    assert await pending_revision("memory", database_url) is not None
    for _ in range(2):
        await upgrade_database("memory", database_url)
        assert await pending_revision("memory", database_url) is None
        assert await schema_differences("memory", database_url) == []
        await downgrade_database("memory", database_url)
    assert await pending_revision("memory", database_url) is not None
