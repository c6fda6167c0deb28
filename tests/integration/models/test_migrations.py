"""Rows of an installation that is upgraded."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.migrate import downgrade_database, upgrade_database
from services.models.domain.budget import WHOLE_GROUP, Budget, BudgetAlert, Period, Scope, Sums
from services.models.domain.usage import UsageGrouping, UsageQuery
from services.models.repositories.budgets import (
    BudgetRepository,
    read_alerts_after,
    read_budget,
    read_last_sequences,
)
from services.models.repositories.usage import UsageRepository, read_sums


async def test_requests_keep_their_models_when_the_table_changes(empty_database_url: str) -> None:
    method = "/coxswain.models.v1.ModelService/CreateModel"
    await upgrade_database("models", empty_database_url, "0002")
    database = Database(empty_database_url, "models", null_pool=True)
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

    await upgrade_database("models", empty_database_url)
    assert await found("resource_id") == [(row["id"], "CreateModel", f"model{row['id']}") for row in rows]
    await downgrade_database("models", empty_database_url, "0002")
    assert await found("model_id") == [(row["id"], method, f"model{row['id']}") for row in rows]
    await database.close()


_TAKEN = "keep_think_tags, unsupported_parameters"
_COSTS = "input_cost_per_million_tokens, output_cost_per_million_tokens"


async def test_a_price_of_nothing_becomes_unknown_and_what_refers_to_a_model_stays(empty_database_url: str) -> None:
    await upgrade_database("models", empty_database_url, "0004")
    database = Database(empty_database_url, "models", null_pool=True)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    at = now.isoformat(" ") if database.dialect == "sqlite" else now
    columns = (
        "id, group_id, name, description, provider, upstream_model, base_url, capabilities, context_window, "
        f"max_output_tokens, embedding_dimension, {_COSTS}, created_at, updated_at"
    )
    values = ":id, 'sales', :id, '', 'openai', '', '', '[]', 7, 0, 0, :i, :o, :at, :at"
    insert = f"INSERT INTO models ({columns}) VALUES ({values})"
    async with database.write() as connection:
        for model_id, given, output in (("both", 1.5, 3.0), ("input", 0.02, 0.0), ("none", 0.0, 0.0)):
            await connection.execute(text(insert), {"id": model_id, "i": given, "o": output, "at": at})
        disable = "INSERT INTO disabled_models (group_id, model_id, disabled_at) VALUES ('sales', 'none', :at)"
        await connection.execute(text(disable), {"at": at})

    async def found(columns: str, table: str) -> list[tuple[Any, ...]]:
        async with database.read() as connection:
            rows = await connection.execute(text(f"SELECT {columns} FROM {table} ORDER BY 1"))
            return [tuple(row) for row in rows]

    await upgrade_database("models", empty_database_url)
    prices = f"id, {_COSTS}, cached_input_cost_per_million_tokens, max_input_tokens, context_window, revision"
    assert await found(prices, "models") == [
        ("both", 1.5, 3.0, None, 0, 7, 1),
        ("input", 0.02, 0.0, None, 0, 7, 1),
        ("none", None, None, None, 0, 7, 1),
    ]
    assert await found("model_id", "disabled_models") == [("none",)]
    taken = [(bool(kept), unsupported) for kept, unsupported in await found(_TAKEN, "models")]
    assert taken == [(False, "[]" if database.dialect == "sqlite" else [])] * 3
    await downgrade_database("models", empty_database_url, "0004")
    assert await found(f"id, {_COSTS}", "models") == [
        ("both", 1.5, 3.0),
        ("input", 0.02, 0.0),
        ("none", 0.0, 0.0),
    ]
    assert await found("model_id", "disabled_models") == [("none",)]
    await database.close()


async def test_alerts_of_earlier_releases_are_numbered_by_group(empty_database_url: str) -> None:
    await upgrade_database("models", empty_database_url, "0011")
    database = Database(empty_database_url, "models", null_pool=True)
    now = utc_now()
    moment = now.replace(tzinfo=None).isoformat(" ") if database.dialect == "sqlite" else now
    insert = (
        "INSERT INTO budget_alerts (group_id, model, subject, ceiling, limit_name, period, id, allowed, used, "
        "alert_share, created_at) VALUES (:group, '', '', false, 'daily_cost_limit', :id, :id, 1, 1, 1, :at)"
    )
    async with database.write() as connection:
        for group, alert_id in (("sales", "2"), ("other", "9"), ("sales", "1")):
            await connection.execute(text(insert), {"group": group, "id": alert_id, "at": moment})
    await upgrade_database("models", empty_database_url)
    # The release before may still store one, which is in no stream.
    async with database.write() as connection:
        await connection.execute(text(insert), {"group": "sales", "id": "3", "at": moment})
        alert = BudgetAlert("4", WHOLE_GROUP, "daily_cost_limit", "4", 1, 1, 1, False, now)
        assert await BudgetRepository(connection).add_alert("sales", alert) == 3
    found = await read_alerts_after(database, "sales", 0, 10)
    assert [(each.id, each.sequence) for each in found] == [("1", 1), ("2", 2), ("4", 3)]
    assert await read_last_sequences(database, ["sales", "other", "none"]) == {"sales": 3, "other": 1}
    await downgrade_database("models", empty_database_url, "0011")
    await upgrade_database("models", empty_database_url)
    assert [each.id for each in await read_alerts_after(database, "sales", 0, 10)] == ["1", "2", "3", "4"]
    await database.close()


async def test_usage_and_limits_of_earlier_releases_count_on(empty_database_url: str) -> None:
    await upgrade_database("models", empty_database_url, "0007")
    database = Database(empty_database_url, "models", null_pool=True)
    now = utc_now()
    last_year = now - timedelta(days=366)
    async with database.write() as connection:
        for number, at in enumerate([now, now, last_year]):
            moment = at.replace(tzinfo=None).isoformat(" ") if database.dialect == "sqlite" else at
            await connection.execute(
                text(
                    "INSERT INTO usage_records (id, group_id, model, execution_id, called_at, input_tokens, "
                    "output_tokens, reasoning_tokens, cached_input_tokens, cost, estimated) "
                    "VALUES (:id, 'sales', 'm', '', :at, 7, 3, 1, 2, 0.5, false)"
                ),
                {"id": str(number), "at": moment},
            )
        moment = now.replace(tzinfo=None).isoformat(" ") if database.dialect == "sqlite" else now
        await connection.execute(text("INSERT INTO budgets VALUES ('sales', 12.5, 3, :at)"), {"at": moment})
        await connection.execute(text("INSERT INTO call_counts VALUES ('sales', 1, 2)"))
    await upgrade_database("models", empty_database_url)
    budget = await read_budget(database, "sales", WHOLE_GROUP)
    assert budget.own == Budget(monthly_cost_limit=12.5, calls_per_minute=3)
    sums = (await read_sums(database, ["sales"], now))["sales"]
    assert sums[Scope("m")][Period.MONTH] == Sums(1.0, 20)
    query = UsageQuery(group_by=(UsageGrouping.MODEL, UsageGrouping.SUBJECT, UsageGrouping.CREW))
    async with database.write() as connection:
        (row,) = await UsageRepository(connection).sums("sales", query, None, 10)
        assert (row.keys, row.calls, row.usage.input_tokens) == (("m", "", ""), 3, 21)
        await BudgetRepository(connection).set("sales", Scope("m"), Budget(tokens_per_day=1), ceiling=True)
    await downgrade_database("models", empty_database_url, "0007")
    async with database.read() as connection:
        left = (await connection.execute(text("SELECT group_id, monthly_cost_limit FROM budgets"))).all()
    assert [tuple(row) for row in left] == [("sales", 12.5)]
    await upgrade_database("models", empty_database_url)
    await database.close()
