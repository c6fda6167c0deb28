"""Alerts are stored once, and again tried when they could not be, on both databases."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Unavailable
from services.models.domain.budget import WHOLE_GROUP, Budget, BudgetAlert, ScopedBudget, Spending
from services.models.domain.usage import Usage
from services.models.repositories.budgets import BudgetRepository
from services.models.usecases.budget_alert_feed import BudgetAlertFeed
from services.models.usecases.budget_alerts import BudgetAlerts
from tests.support.service_tables import make_service_tables

LIMITS = Budget(tokens_per_day=10, tokens_per_minute=10, alert_share=0.5)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    make_service_tables("models", database_url)
    database = Database(database_url, "models", null_pool=True)
    yield database
    await database.close()


async def stored(database: Database, count: int) -> list[BudgetAlert]:
    """Return the alerts of the group, once there are so many."""
    async with asyncio.timeout(60):
        while True:
            async with database.read() as connection:
                found = await BudgetRepository(connection).alerts("g", None, 10)
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)


async def test_an_alert_is_tried_again_until_it_is_stored_and_then_not_any_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = BudgetRepository.add_alert
    tries: list[str] = []
    away = True
    done = asyncio.Event()

    async def add_or_fail(self: BudgetRepository, group_id: str, alert: BudgetAlert) -> int:
        tries.append(alert.limit)
        if away:
            raise Unavailable("the database does not answer")
        new = await add(self, group_id, alert)
        done.set()
        return new

    monkeypatch.setattr(BudgetRepository, "add_alert", add_or_fail)
    alerts, spending = BudgetAlerts(database, BudgetAlertFeed(database)), Spending()
    alerts.watch("g", ScopedBudget(WHOLE_GROUP, LIMITS))
    spending.add(utc_now(), Usage(4))
    alerts.check("g", WHOLE_GROUP, spending)
    assert not tries
    spending.add(utc_now(), Usage(2))
    async with asyncio.timeout(60):
        while len(tries) < 3:
            alerts.check("g", WHOLE_GROUP, spending)
            await asyncio.sleep(0.01)
        away = False
        while not await stored(database, 0):
            alerts.check("g", WHOLE_GROUP, spending)
    # Each minute begins anew: that is no news.
    assert set(tries) == {"tokens_per_day"}
    [alert] = await stored(database, 1)
    assert (alert.limit, alert.allowed, alert.used) == ("tokens_per_day", 10, 6)
    before = len(tries)
    alerts.watch("g", ScopedBudget(WHOLE_GROUP, LIMITS))
    alerts.check("g", WHOLE_GROUP, spending)
    await asyncio.sleep(0)
    assert len(tries) == before
    # Another process knows nothing of it, and stores no second one.
    another = BudgetAlerts(database, BudgetAlertFeed(database))
    another.watch("g", ScopedBudget(WHOLE_GROUP, LIMITS))
    done.clear()
    another.check("g", WHOLE_GROUP, spending)
    async with asyncio.timeout(60):
        await done.wait()
    await another.close()
    await alerts.close()
    assert await stored(database, 1) == [alert]


async def test_limits_without_a_share_tell_nothing(database: Database) -> None:
    alerts, spending = BudgetAlerts(database, BudgetAlertFeed(database)), Spending()
    spending.add(utc_now(), Usage(100))
    alerts.watch("g", ScopedBudget(WHOLE_GROUP, LIMITS))
    alerts.watch("g", ScopedBudget(WHOLE_GROUP, Budget(tokens_per_day=10)))
    alerts.check("g", WHOLE_GROUP, spending)
    await alerts.close()
    assert not await stored(database, 0)
