"""Telling that a share of a limit has been used."""

from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter

from services.common.background import BackgroundTasks
from services.common.clock import utc_now
from services.common.counts import from_the_start
from services.common.db.database import Database
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Page, Pager
from services.models.domain.budget import SUM_LIMITS, Budget, BudgetAlert, Period, Scope, ScopedBudget, Spending
from services.models.repositories.budgets import BudgetRepository
from services.models.usecases.budget_alert_feed import BudgetAlertFeed

logger = structlog.get_logger(__name__)

# Limits that are watched; those of the oldest groups leave, and are watched again from their next call on.
_MAX_WATCHED = 50_000
# What is allowed anew each minute is no news.
_WATCHED_LIMITS = tuple(limit for limit in SUM_LIMITS if limit.period is not Period.MINUTE)
_ALERTS = from_the_start(
    Counter("coxswain_models_budget_alerts_total", "Alerts stored, by limit.", ("limit",)),
    [limit.name for limit in _WATCHED_LIMITS],
)


_Key = tuple[Scope, bool]
"""A scope, and whether the limits are the operator's."""


@dataclass(frozen=True, slots=True)
class _Watched:
    limits: Budget
    alerted: dict[str, str]
    """By limit, the period whose alert is stored."""


class BudgetAlerts:
    """Stores an alert, once in each day or month, when a limit's share has been used."""

    def __init__(self, database: Database, feed: BudgetAlertFeed) -> None:
        self._database = database
        self._feed = feed
        self._watched: dict[str, dict[_Key, _Watched]] = {}
        """By group; those without limits to watch are left out."""
        self._size = 0
        self._background = BackgroundTasks()
        self._pager = Pager("budget_alerts")

    def watches(self, group_id: str) -> bool:
        """Whether any limit of a group is watched."""
        return group_id in self._watched

    def watch(self, group_id: str, budget: ScopedBudget) -> None:
        """Hold what a scope uses against its limits from now on."""
        group = self._watched.pop(group_id, {})
        self._size -= len(group)
        for ceiling, limits in ((False, budget.own), (True, budget.ceiling)):
            before = group.pop((budget.scope, ceiling), None)
            if limits.alert_share:
                group[budget.scope, ceiling] = _Watched(limits, {} if before is None else before.alerted)
        if group:
            self._watched[group_id] = group
            self._size += len(group)
        while self._size > _MAX_WATCHED:
            self._size -= len(self._watched.pop(next(iter(self._watched))))

    def check(self, group_id: str, scope: Scope, spending: Spending) -> None:
        """Store, beside the call, the alerts that are due."""
        group = self._watched.get(group_id)
        if group is None:
            return
        moment = utc_now()
        for ceiling in (False, True):
            watched = group.get((scope, ceiling))
            if watched is None:
                continue
            limits = watched.limits
            for limit in _WATCHED_LIMITS:
                allowed, period = limits.value(limit), limit.period.of(moment)
                used = spending.used(limit.measure, limit.period, moment)
                if not allowed or used < allowed * limits.alert_share or watched.alerted.get(limit.name) == period:
                    continue
                watched.alerted[limit.name] = period
                alert = BudgetAlert(
                    new_id(), scope, limit.name, period, allowed, used, limits.alert_share, ceiling, moment
                )
                self._background.start(self._store(group_id, alert, watched))

    async def page(self, principal: Principal, size: int, token: str) -> Page[BudgetAlert]:
        """Return alerts of the caller's group, newest first.

        Raises:
            InvalidArgument: the token is not one of this listing.
        """
        async with self._database.read() as connection:
            alerts = BudgetRepository(connection)

            async def read(before: list[Any] | None, limit: int) -> list[BudgetAlert]:
                return await alerts.alerts(principal.group_id, before[0] if before else None, limit)

            return await self._pager.page(size, token, {}, read, lambda alert: [alert.id])

    async def close(self) -> None:
        """End what is being stored; the next call after the start stores it."""
        await self._background.stop()

    async def _store(self, group_id: str, alert: BudgetAlert, watched: _Watched) -> None:
        try:
            async with self._database.write() as connection:
                sequence = await BudgetRepository(connection).add_alert(group_id, alert)
        except Exception:
            # The next call that uses something tries again.
            watched.alerted.pop(alert.limit, None)
            logger.exception("budget_alert_not_stored", group_id=group_id, limit=alert.limit)
            return
        if not sequence:
            return
        self._feed.stored(group_id, sequence)
        _ALERTS.labels(alert.limit).inc()
        logger.warning(
            "budget_alert",
            group_id=group_id,
            model=alert.scope.model,
            limit=alert.limit,
            period=alert.period,
            allowed=alert.allowed,
            used=alert.used,
            ceiling=alert.ceiling,
        )
