"""The connections that all processes may open are compared with what PostgreSQL allows."""

import asyncio
from pathlib import Path

from sqlalchemy import text

from services.common.db.connection_budget import ConnectionBudget, read_connection_budget
from services.common.db.database import Database
from tests.support.waiting import until


async def test_the_pools_of_all_processes_count_by_their_bounds_and_other_sessions_one_by_one(
    postgres_url: str,
) -> None:
    one_by_one = Database(postgres_url, "orchestrator", null_pool=True)

    async def are_counted() -> bool:
        first, second = Database(postgres_url, "auth"), Database(postgres_url, "models", pool_size=40)
        before = await _settled(one_by_one)
        try:
            async with first.read() as connection, second.read(), one_by_one.read():
                allowed = int(await connection.scalar(text("SHOW max_connections")) or 0)
                reserved = int(await connection.scalar(text("SHOW superuser_reserved_connections")) or 0)
                budget = await read_connection_budget(first)
        finally:
            for database in (first, second):
                await database.close()
        assert budget is not None
        assert budget.allowed == allowed - reserved
        assert budget.others >= 1
        return budget.pooled - before.pooled == 10 + 80

    try:
        # Once more where a session of an earlier test has ended in between.
        await until(are_counted)
    finally:
        await one_by_one.close()


async def _settled(database: Database) -> ConnectionBudget:
    """Return the budget once the sessions of earlier tests have ended, which they do some time after their pools."""
    budget = before = None
    while budget is None or budget != before:
        before, budget = budget, await read_connection_budget(database)
        await asyncio.sleep(0.1)
    return budget


async def test_a_file_has_no_connections_to_run_out_of(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/any.db", "any")
    assert await read_connection_budget(database) is None
    await database.close()


def test_what_is_missing_is_what_the_server_allows_too_few() -> None:
    assert ConnectionBudget(allowed=97, pooled=90, others=7).missing == 0
    assert ConnectionBudget(allowed=97, pooled=100, others=4).missing == 7
