"""What groups have used."""

from services.common.db.database import Database
from services.common.errors import InvalidArgument
from services.common.identity.principal import Principal
from services.models.domain.usage import UsageQuery, UsageSum
from services.models.repositories.usage import UsageRepository
from services.models.usecases.usage_recorder import UsageRecorder


class UsageReports:
    """Sums of what a group has used."""

    def __init__(self, database: Database, recorder: UsageRecorder) -> None:
        self._database = database
        self._recorder = recorder

    async def query(self, principal: Principal, query: UsageQuery) -> list[UsageSum]:
        """Return the sums of the caller's group, calls that have just ended included.

        Raises:
            InvalidArgument: the span ends before it begins.
        """
        if query.start is not None and query.end is not None and query.end < query.start:
            raise InvalidArgument.field("end_time", "must not be before start_time")
        await self._recorder.flush()
        async with self._database.read() as connection:
            return await UsageRepository(connection).sums(principal.group_id, query)
