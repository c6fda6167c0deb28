"""Transactions over all repositories."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.orchestrator.repositories.approvals import SqlApprovals
from services.orchestrator.repositories.crews import SqlCrews
from services.orchestrator.repositories.events import SqlEvents
from services.orchestrator.repositories.executions import SqlExecutions
from services.orchestrator.repositories.requests import SqlRequests


@dataclass(frozen=True, slots=True)
class SqlUnitOfWork:
    """See `protocols.UnitOfWork`."""

    requests: SqlRequests
    crews: SqlCrews
    executions: SqlExecutions
    events: SqlEvents
    approvals: SqlApprovals

    @classmethod
    def of(cls, connection: AsyncConnection) -> Self:
        """Return the repositories on one connection in a transaction."""
        return cls(
            requests=SqlRequests(connection),
            crews=SqlCrews(connection),
            executions=SqlExecutions(connection),
            events=SqlEvents(connection),
            approvals=SqlApprovals(connection),
        )


class SqlStore:
    """See `protocols.Store`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[SqlUnitOfWork]:
        """See `protocols.Store`."""
        async with self._database.read() as connection:
            yield SqlUnitOfWork.of(connection)

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[SqlUnitOfWork]:
        """See `protocols.Store`."""
        async with self._database.write() as connection:
            yield SqlUnitOfWork.of(connection)
