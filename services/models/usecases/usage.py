"""What groups have used."""

from typing import Any

from services.common.db.database import Database
from services.common.identity.principal import Principal
from services.common.paging import Page
from services.common.sum_queries import page_of_sums
from services.models.domain.usage import UsageQuery, UsageSum
from services.models.repositories.usage import UsageRepository
from services.models.usecases.usage_recorder import UsageRecorder


class UsageReports:
    """Sums of what a group has used."""

    def __init__(self, database: Database, recorder: UsageRecorder) -> None:
        self._database = database
        self._recorder = recorder

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
