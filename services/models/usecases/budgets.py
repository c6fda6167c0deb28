"""The limits that groups have set on their use of models."""

import math
from datetime import timedelta

from services.common.cache import AsyncCache
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import InvalidArgument, ResourceExhausted
from services.common.identity.principal import Principal
from services.models.domain.usage import Budget
from services.models.repositories.budgets import BudgetRepository, read_budget
from services.models.repositories.usage import read_monthly_cost
from services.models.usecases.usage_recorder import UsageRecorder

_CACHE_SIZE = 10_000


class Budgets:
    """Refuses calls of groups that have reached a limit of their own."""

    def __init__(self, database: Database, recorder: UsageRecorder, max_age: float) -> None:
        """`max_age` is how many seconds a group's limits may be remembered; 0 where other processes change them."""
        self._database = database
        self._recorder = recorder
        self._cache = AsyncCache[str, Budget](_CACHE_SIZE, max_age) if max_age else None

    async def admit(self, group_id: str) -> None:
        """Count a call that is about to be made. Calls that are under way are not stopped.

        Raises:
            ResourceExhausted: the group's calls of this minute or its cost of this month are used up.
        """
        budget = await self._budget(group_id)
        if budget.monthly_cost_limit:
            await self._check_cost(group_id, budget.monthly_cost_limit)
        if budget.calls_per_minute:
            await self._check_rate(group_id, budget.calls_per_minute)

    async def get(self, principal: Principal) -> tuple[Budget, float]:
        """Return the group's limits, and the US dollars spent this month."""
        await self._recorder.flush()
        budget = await read_budget(self._database, principal.group_id)
        return budget, await read_monthly_cost(self._database, principal.group_id, utc_now())

    async def set(self, principal: Principal, budget: Budget) -> Budget:
        """Replace the group's limits.

        Raises:
            InvalidArgument: the cost is not a finite number.
        """
        if not math.isfinite(budget.monthly_cost_limit):
            raise InvalidArgument.field("budget.monthly_cost_limit", "must be a finite number; 0 means no limit")
        async with self._database.write() as connection:
            await BudgetRepository(connection).set(principal.group_id, budget)
        if self._cache is not None:
            self._cache.forget(principal.group_id)
        return budget

    async def _budget(self, group_id: str) -> Budget:
        if self._cache is None:
            return await read_budget(self._database, group_id)
        return await self._cache.get(group_id, lambda: read_budget(self._database, group_id))

    async def _check_cost(self, group_id: str, limit: float) -> None:
        await self._recorder.flush()
        spent = await read_monthly_cost(self._database, group_id, utc_now())
        if spent >= limit:
            raise ResourceExhausted(
                f"your group has spent ${spent:.2f} of its ${limit:.2f} for model calls this month (UTC); an admin "
                "of it can raise the limit with SetBudget",
                reason="BUDGET_EXCEEDED",
                metadata={"budget": "monthly_cost_limit"},
            )

    async def _check_rate(self, group_id: str, limit: int) -> None:
        now = utc_now()
        minute = int(now.timestamp() // 60)
        async with self._database.write() as connection:
            calls = await BudgetRepository(connection).count_call(group_id, minute)
        if calls > limit:
            next_minute = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
            raise ResourceExhausted(
                f"your group has used its {limit} model calls of this minute; try again in the next one",
                reason="BUDGET_EXCEEDED",
                metadata={"budget": "calls_per_minute"},
                retry_after=max(0.1, (next_minute - now).total_seconds()),
            )
