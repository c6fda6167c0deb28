"""What groups have used."""

from datetime import timedelta
from typing import Any

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.expiry import remove_before_by_group
from services.common.identity.principal import Principal
from services.common.paging import Page
from services.common.sum_queries import page_of_sums
from services.models.domain.budget import Period
from services.models.domain.usage import UsageQuery, UsageSum
from services.models.repositories.usage import UsageRepository
from services.models.tables import budget_alerts, usage_days, usage_records
from services.models.usecases.usage_recorder import UsageRecorder


class UsageReports:
    """Sums of what groups have used, and the end of what is too old."""

    def __init__(self, database: Database, recorder: UsageRecorder, *, retention_seconds: float) -> None:
        """`retention_seconds` is for how long calls are kept; 0 means for ever."""
        self._database = database
        self._recorder = recorder
        self._retention_seconds = retention_seconds

    async def page(self, principal: Principal, query: UsageQuery, size: int, token: str) -> Page[UsageSum]:
        """Return sums of the caller's group, calls that have just ended included.

        Raises:
            InvalidArgument: see `page_of_sums`.
        """
        await self._recorder.flush()
        async with self._database.read() as connection:
            usage = UsageRepository(connection)

            async def read(after: list[Any] | None, limit: int) -> list[UsageSum]:
                return await usage.sums(principal.group_id, query, after, limit)

            return await page_of_sums("usage", query, size, token, read, lambda row: row.keys)

    async def forget(self) -> None:
        """Delete calls, sums of days and alerts that are too old. Replicas may do it at once."""
        if not self._retention_seconds:
            return
        now = utc_now()
        # Limits count what was used in the present month, and alert once in it.
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        before = min(now - timedelta(seconds=self._retention_seconds), month)
        for group_id, time, until in (
            (usage_records.c.group_id, usage_records.c.called_at, before),
            (usage_days.c.group_id, usage_days.c.day, Period.DAY.of(before)),
            (budget_alerts.c.group_id, budget_alerts.c.created_at, before),
        ):
            await remove_before_by_group(self._database, group_id, time, until)
