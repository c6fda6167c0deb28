"""Transactions over all repositories."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Self

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.errors import InvalidArgument
from services.orchestrator.repositories.approvals import SqlApprovals
from services.orchestrator.repositories.crews import SqlCrews
from services.orchestrator.repositories.events import SqlEvents
from services.orchestrator.repositories.executions import SqlExecutions
from services.orchestrator.repositories.requests import SqlRequests
from services.orchestrator.repositories.schedules import SqlSchedules

# How PostgreSQL says that a text has a character it cannot keep, by itself or within JSON.
_UNSTORABLE = {"22021", "22P05"}


@dataclass(frozen=True, slots=True)
class SqlUnitOfWork:
    """See `protocols.UnitOfWork`."""

    requests: SqlRequests
    crews: SqlCrews
    executions: SqlExecutions
    events: SqlEvents
    approvals: SqlApprovals
    schedules: SqlSchedules

    @classmethod
    def of(cls, connection: AsyncConnection) -> Self:
        """Return the repositories on one connection in a transaction."""
        return cls(
            requests=SqlRequests(connection),
            crews=SqlCrews(connection),
            executions=SqlExecutions(connection),
            events=SqlEvents(connection),
            approvals=SqlApprovals(connection),
            schedules=SqlSchedules(connection),
        )


class SqlStore:
    """See `protocols.Store`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[SqlUnitOfWork]:
        """See `protocols.Store`."""
        with _refusing_unstorable():
            async with self._database.read() as connection:
                yield SqlUnitOfWork.of(connection)

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[SqlUnitOfWork]:
        """See `protocols.Store`."""
        with _refusing_unstorable():
            async with self._database.write() as connection:
                yield SqlUnitOfWork.of(connection)


@contextlib.contextmanager
def _refusing_unstorable() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in _UNSTORABLE:
            raise InvalidArgument(
                "a text of the request contains the character U+0000, which cannot be stored; remove it"
            ) from error
        raise
