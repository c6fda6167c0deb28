"""What code that only runs statements needs of a database, be it the service's own or another one."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.point_reads import PointRead
from services.common.db.statement import Statement


class DatabaseAccess(Protocol):
    """Transactions, and single statements that need none; see `Database`."""

    dialect: str
    """`sqlite` or `postgresql`."""

    async def fetch(self, statement: Statement, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows of one SELECT by column names.

        Raises:
            Unavailable: the database does not answer.
        """
        ...

    async def fetch_raw(self, statement: Statement, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what `fetch` does, with values as the driver gives them; for statements that are made once.

        Raises:
            Unavailable: the database does not answer.
        """
        ...

    def point_read(self, statement: Select[Any], parameters: Sequence[str]) -> PointRead:
        """Return a way to read one row by the whole of its key."""
        ...

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Yield a connection in a transaction that only reads.

        Raises:
            Unavailable: the database does not answer.
        """
        ...

    def write(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Yield a connection in a transaction that commits when the block ends and rolls back when it raises.

        Raises:
            Unavailable: the database does not answer, or did not confirm the commit.
        """
        ...
