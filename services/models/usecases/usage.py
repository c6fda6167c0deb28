"""What calls used, and the limits that groups have set on it."""

import asyncio
import math
import time
from datetime import timedelta

import structlog

from services.common.clock import utc_now
from services.common.errors import InvalidArgument, ResourceExhausted
from services.common.identity.principal import Principal
from services.models.domain.usage import Budget, UsageQuery, UsageRecord, UsageSum
from services.models.repositories.usage import UsageRepository

logger = structlog.get_logger(__name__)

_BATCH = 500
# About 50 MB: what piles up while the database does not answer.
_MAX_WAITING = 100_000
_MAX_PAUSE_SECONDS = 5.0
_BUDGET_CACHE_SIZE = 10_000


class UsageRecorder:
    """Stores what calls used, beside them: no call waits for it.

    What has gathered while one batch is written is the next batch; what cannot be written is tried again.
    """

    def __init__(self, repository: UsageRepository) -> None:
        self._repository = repository
        self._waiting: list[UsageRecord] = []
        self._changed = asyncio.Condition()
        self._recorded = 0
        self._stored = 0
        self._task: asyncio.Task[None] | None = None
        self._more = asyncio.Event()

    def start(self) -> None:
        """Begin to store."""
        self._task = asyncio.create_task(self._run())

    def record(self, record: UsageRecord) -> None:
        """Store a record soon."""
        if len(self._waiting) >= _MAX_WAITING:
            logger.error("usage_lost", group_id=record.group_id, model=record.model)
            return
        self._waiting.append(record)
        self._recorded += 1
        self._more.set()

    async def flush(self) -> None:
        """Wait until everything recorded so far is stored."""
        target = self._recorded
        async with self._changed:
            await self._changed.wait_for(lambda: self._stored >= target)

    async def close(self, timeout: float) -> None:
        """Store what is left, for at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.flush()
        except TimeoutError:
            logger.exception("usage_lost", records=len(self._waiting))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                batch = self._waiting[:_BATCH]
                try:
                    # After a failure nobody knows whether the batch was committed.
                    await self._repository.add(batch, maybe_stored=failures > 0)
                except Exception:
                    failures += 1
                    logger.exception("usage_not_stored", records=len(self._waiting), failures=failures)
                    await asyncio.sleep(min(_MAX_PAUSE_SECONDS, 0.1 * 2 ** min(failures, 10)))
                    continue
                failures = 0
                del self._waiting[: len(batch)]
                async with self._changed:
                    self._stored += len(batch)
                    self._changed.notify_all()


class Budgets:
    """Refuses calls of groups that have used up what they allow themselves."""

    def __init__(self, repository: UsageRepository, recorder: UsageRecorder, max_age: float) -> None:
        """`max_age` is how many seconds a group's limits may be remembered."""
        self._repository = repository
        self._recorder = recorder
        self._max_age = max_age
        self._cache: dict[str, tuple[float, Budget]] = {}
        self._generation = 0

    async def admit(self, group_id: str) -> None:
        """Count a call that is about to be made. Calls that are under way are not stopped.

        Raises:
            ResourceExhausted: the group's calls of this minute, or its money for this month, are used up.
        """
        budget = await self._budget(group_id)
        if budget.monthly_cost_limit:
            await self._check_cost(group_id, budget.monthly_cost_limit)
        if budget.calls_per_minute:
            await self._check_rate(group_id, budget.calls_per_minute)

    async def get(self, principal: Principal) -> tuple[Budget, float]:
        """Return the group's limits, and the US dollars spent this month."""
        await self._recorder.flush()
        budget = await self._repository.budget(principal.group_id)
        return budget, await self._repository.monthly_cost(principal.group_id, utc_now())

    async def set(self, principal: Principal, budget: Budget) -> Budget:
        """Replace the group's limits.

        Raises:
            InvalidArgument: the cost is no finite number.
        """
        if not math.isfinite(budget.monthly_cost_limit):
            raise InvalidArgument.field("budget.monthly_cost_limit", "has to be a finite number; 0 means no limit")
        await self._repository.set_budget(principal.group_id, budget)
        self._generation += 1
        self._cache.pop(principal.group_id, None)
        return budget

    async def _budget(self, group_id: str) -> Budget:
        entry = self._cache.get(group_id)
        if entry is not None and entry[0] > time.monotonic():
            return entry[1]
        generation = self._generation
        budget = await self._repository.budget(group_id)
        if self._max_age and generation == self._generation:
            if len(self._cache) >= _BUDGET_CACHE_SIZE:
                self._cache.clear()
            self._cache[group_id] = (time.monotonic() + self._max_age, budget)
        return budget

    async def _check_cost(self, group_id: str, limit: float) -> None:
        await self._recorder.flush()
        spent = await self._repository.monthly_cost(group_id, utc_now())
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
        if await self._repository.count_call(group_id, minute) > limit:
            next_minute = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
            raise ResourceExhausted(
                f"your group has made its {limit} model calls of this minute",
                reason="BUDGET_EXCEEDED",
                metadata={"budget": "calls_per_minute"},
                retry_after=max(0.1, (next_minute - now).total_seconds()),
            )


class UsageReports:
    """Sums of what a group has used."""

    def __init__(self, repository: UsageRepository, recorder: UsageRecorder) -> None:
        self._repository = repository
        self._recorder = recorder

    async def query(self, principal: Principal, query: UsageQuery) -> list[UsageSum]:
        """Return the sums of the caller's group, calls that have just ended included.

        Raises:
            InvalidArgument: the span ends before it begins.
        """
        if query.start is not None and query.end is not None and query.end < query.start:
            raise InvalidArgument.field("end_time", "lies before start_time")
        await self._recorder.flush()
        return await self._repository.sums(principal.group_id, query)
