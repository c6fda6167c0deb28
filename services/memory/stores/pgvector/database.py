"""A group's database behind the interface of the service's own: the statements of the default store run on both."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.point_reads import PlainPointRead, PointRead
from services.common.db.statement import Statement
from services.common.errors import Unavailable
from services.memory.domain.backends import MemoryBackend
from services.memory.stores.pgvector.pools import ConnectionPools


class BackendDatabase:
    """Connects anew for each transaction, with the credential that the calling principal has then."""

    dialect = "postgresql"

    def __init__(self, backend: MemoryBackend, pools: ConnectionPools) -> None:
        self._backend = backend
        self._pools = pools

    @property
    def backend_id(self) -> str:
        """Whose database it is."""
        return self._backend.id

    async def fetch(self, statement: Statement, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows of one SELECT by column names; what finds a lost connection is read again, on a new one."""
        try:
            return await self._fetch(statement, parameters)
        except Unavailable:
            return await self._fetch(statement, parameters)

    async def _fetch(self, statement: Statement, parameters: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        async with self._pools.connection(self._backend, "AUTOCOMMIT") as connection:
            result = await connection.execute(statement, parameters)
            return [dict(row) for row in result.mappings()]

    async def fetch_raw(self, statement: Statement, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what `fetch` does."""
        return await self.fetch(statement, parameters)

    def point_read(self, statement: Select[Any], parameters: Sequence[str]) -> PointRead:
        """Return a way to read one row by the whole of its key."""
        return PlainPointRead(self, statement, parameters)

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that only reads, all of it in one snapshot."""
        async with self._pools.connection(self._backend, "REPEATABLE READ") as connection, connection.begin():
            yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that commits when the block ends and rolls back when it raises."""
        async with self._pools.connection(self._backend) as connection, connection.begin():
            yield connection

    async def close(self) -> None:
        """The connections belong to the pools."""
