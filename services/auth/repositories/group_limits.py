"""What the operator allows groups, and what their admins have lowered of it."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.upsert import insert_or_update
from services.common.identity.group_limits import LIMIT_NAMES, NO_GROUP_LIMITS, GroupLimits

OPERATORS = tables.group_limits
LOWERED = tables.lowered_group_limits
_TABLES = (OPERATORS, LOWERED)


class GroupLimitRepository:
    """Rows of `OPERATORS` or `LOWERED`: of each limit what is set, None where nothing is."""

    def __init__(self, connection: AsyncConnection, table: Table) -> None:
        self._connection = connection
        self._table = table

    async def get(self, group_id: str) -> GroupLimits:
        """Return what is set for a group."""
        rows = await self._connection.execute(select(self._table).where(self._table.c.group_id == group_id))
        row = rows.mappings().one_or_none()
        return _limits(row) if row else NO_GROUP_LIMITS

    async def change(self, group_id: str, values: Mapping[str, float | None]) -> GroupLimits:
        """Change the limits that are named, and return what is set then."""
        if not values:
            return await self.get(group_id)
        row = await insert_or_update(
            self._connection,
            self._table,
            {"group_id": group_id, "updated_at": utc_now(), **values},
            key=("group_id",),
            update=("updated_at", *values),
        )
        return GroupLimits(**{name: getattr(row, name) for name in LIMIT_NAMES})


async def read_limits(database: Database, group_id: str) -> tuple[GroupLimits, GroupLimits]:
    """Return what the operator has set for a group, and what its admins have lowered.

    Every call asks once in a while: one statement needs no transaction.
    """
    both = (select(literal(table.name).label("table"), table).where(table.c.group_id == group_id) for table in _TABLES)
    found = {row["table"]: _limits(row) for row in await database.fetch(union_all(*both))}
    return found.get(OPERATORS.name, NO_GROUP_LIMITS), found.get(LOWERED.name, NO_GROUP_LIMITS)


def _limits(row: Mapping[Any, Any]) -> GroupLimits:
    return GroupLimits(**{name: row[name] for name in LIMIT_NAMES})
