"""What the operator allows groups."""

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.upsert import insert_or_update
from services.common.identity.group_limits import LIMIT_NAMES, GroupLimits

_TABLE = tables.group_limits


class GroupLimitRepository:
    """Rows of `group_limits`: of each limit what is set, None where nothing is."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def change(self, group_id: str, values: Mapping[str, float | None]) -> GroupLimits:
        """Change the limits that are named, and return what is set then."""
        row = await insert_or_update(
            self._connection,
            _TABLE,
            {"group_id": group_id, "updated_at": utc_now(), **values},
            key=("group_id",),
            update=("updated_at", *values),
        )
        return GroupLimits(**{name: getattr(row, name) for name in LIMIT_NAMES})


async def read_limits(database: Database, group_id: str) -> GroupLimits:
    """Return what is set for a group. One statement needs no transaction."""
    rows = await database.fetch(select(_TABLE).where(_TABLE.c.group_id == group_id))
    return GroupLimits(**{name: rows[0][name] for name in LIMIT_NAMES}) if rows else GroupLimits()
