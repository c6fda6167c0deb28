"""What groups have used."""

from typing import Any

from services.common.db.database import Database
from services.common.errors import InvalidArgument
from services.common.identity.principal import Principal
from services.common.paging import Page, Pager
from services.models.domain.usage import UsageGrouping, UsageQuery, UsageSum
from services.models.repositories.usage import UsageRepository
from services.models.usecases.usage_recorder import UsageRecorder

_DEFAULT_ROWS = 1000
_MOST_ROWS = 5000


class UsageReports:
    """Sums of what a group has used."""

    def __init__(self, database: Database, recorder: UsageRecorder) -> None:
        self._database = database
        self._recorder = recorder

    async def page(self, principal: Principal, query: UsageQuery, size: int, token: str) -> Page[UsageSum]:
        """Return sums of the caller's group, calls that have just ended included.

        Raises:
            InvalidArgument: the span ends before it begins, no label is named to sum by, or the token is not one of
                this query.
        """
        if query.start is not None and query.end is not None and query.end < query.start:
            raise InvalidArgument.field("end_time", "must not be before start_time")
        if UsageGrouping.LABEL in query.group_by and not query.label_key:
            raise InvalidArgument.field("label_key", "name the label whose values are to be summed by")
        pager = Pager("usage", key_types=(str,) * len(query.group_by), default=_DEFAULT_ROWS, maximum=_MOST_ROWS)
        filters = {name: str(getattr(query, name)) for name in UsageQuery.__dataclass_fields__ if name != "labels"}
        filters["labels"] = str(sorted(query.labels.items()))
        await self._recorder.flush()
        async with self._database.read() as connection:
            usage = UsageRepository(connection)

            async def read(after: list[Any] | None, limit: int) -> list[UsageSum]:
                return await usage.sums(principal.group_id, query, after, limit)

            return await pager.page(size, token, filters, read, lambda row: row.keys)
