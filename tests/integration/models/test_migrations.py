"""Rows of an installation that is upgraded."""

from datetime import timedelta
from typing import Any

from sqlalchemy import text

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.migrate import downgrade_database, upgrade_database


async def test_requests_keep_their_models_when_the_table_changes(database_url: str) -> None:
    method = "/coxswain.models.v1.ModelService/CreateModel"
    await upgrade_database("models", database_url, "0002")
    database = Database(database_url, "models", null_pool=True)
    now = utc_now()
    rows: list[dict[str, Any]] = [
        {"id": str(number), "method": method, "at": now - timedelta(days=number)} for number in range(3)
    ]
    async with database.write() as connection:
        insert = "INSERT INTO requests VALUES ('sales', 'dev|ann', :method, :id, 'hash', :model, :at)"
        for row in rows:
            at = row["at"].isoformat(" ") if database.dialect == "sqlite" else row["at"]
            await connection.execute(text(insert), row | {"model": f"model{row['id']}", "at": at})

    async def found(column: str) -> list[tuple[Any, ...]]:
        async with database.read() as connection:
            result = await connection.execute(
                text(f"SELECT request_id, method, {column} FROM requests ORDER BY request_id")
            )
            return [tuple(row) for row in result]

    await upgrade_database("models", database_url)
    assert await found("resource_id") == [(row["id"], "CreateModel", f"model{row['id']}") for row in rows]
    await downgrade_database("models", database_url, "0002")
    assert await found("model_id") == [(row["id"], method, f"model{row['id']}") for row in rows]
    await database.close()
