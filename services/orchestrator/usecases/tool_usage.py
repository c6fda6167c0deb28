"""What groups have used of tools."""

from datetime import timedelta
from typing import Any

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.expiry import remove_before_by_group
from services.common.identity.principal import Principal
from services.common.paging import Page
from services.common.sum_queries import page_of_sums
from services.orchestrator.domain.tool_usage import ToolUsageQuery, ToolUsageSum
from services.orchestrator.repositories.tool_usage import ToolUsageRepository
from services.orchestrator.tables import tool_usage


class ToolUsage:
    """Sums of what groups have used, and the end of what is too old."""

    def __init__(self, database: Database, *, retention_seconds: float) -> None:
        """`retention_seconds` is for how long calls are kept; 0 means for ever."""
        self._database = database
        self._retention_seconds = retention_seconds

    async def page(self, principal: Principal, query: ToolUsageQuery, size: int, token: str) -> Page[ToolUsageSum]:
        """Return sums of the caller's group.

        Raises:
            InvalidArgument: see `page_of_sums`.
        """
        async with self._database.read() as connection:
            usage = ToolUsageRepository(connection)

            async def read(after: list[Any] | None, limit: int) -> list[ToolUsageSum]:
                return await usage.sums(principal.group_id, query, after, limit)

            return await page_of_sums("tool_usage", query, size, token, read, lambda row: row.keys)

    async def forget(self) -> None:
        """Delete calls that are too old. Replicas may do it at once."""
        if not self._retention_seconds:
            return
        before = utc_now() - timedelta(seconds=self._retention_seconds)
        await remove_before_by_group(self._database, tool_usage.c.group_id, tool_usage.c.called_at, before)
