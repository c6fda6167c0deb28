"""The connections that all processes may open are compared with what PostgreSQL allows."""

from pathlib import Path

from sqlalchemy import text

from services.common.db.connection_budget import ConnectionBudget, read_connection_budget
from services.common.db.database import Database
from tests.support.waiting import until


async def test_the_pools_of_all_processes_count_by_their_bounds_and_other_sessions_one_by_one(
    postgres_url: str,
) -> None:
    one_by_one = Database(postgres_url, "orchestrator", null_pool=True)

    async def sessions(condition: str) -> set[int]:
        async with one_by_one.read() as connection:
            return set(await connection.scalars(text(f"SELECT pid FROM pg_stat_activity WHERE {condition}")))

    async def are_counted() -> bool:
        if await sessions("datname = current_database() AND pid <> pg_backend_pid()"):
            return False
        first, second = Database(postgres_url, "auth"), Database(postgres_url, "models", pool_size=40)
        elsewhere = await sessions("datname <> current_database()")
        before = await read_connection_budget(one_by_one)
        try:
            async with first.read() as connection, second.read(), one_by_one.read():
                allowed = int(await connection.scalar(text("SHOW max_connections")) or 0)
                reserved = int(await connection.scalar(text("SHOW superuser_reserved_connections")) or 0)
                budget = await read_connection_budget(first)
        finally:
            for database in (first, second):
                await database.close()
        if await sessions("datname <> current_database()") != elsewhere:
            return False
        assert before is not None
        assert budget is not None
        assert budget.allowed == allowed - reserved
        assert budget.others >= 1
        assert budget.pooled - before.pooled == 10 + 80
        return True

    try:
        # Only where sessions of other tests, which end some time after their pools, have come or gone, once more.
        await until(are_counted)
    finally:
        await one_by_one.close()


async def test_a_file_has_no_connections_to_run_out_of(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/any.db", "any")
    assert await read_connection_budget(database) is None
    await database.close()


def test_what_is_missing_is_what_the_server_allows_too_few() -> None:
    assert ConnectionBudget(allowed=97, pooled=90, others=7).missing == 0
    assert ConnectionBudget(allowed=97, pooled=100, others=4).missing == 7
