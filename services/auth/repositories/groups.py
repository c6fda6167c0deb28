"""Groups."""

from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import Group
from services.common.db.database import Database
from services.common.db.upsert import insert_ignore

_TABLE = tables.groups


def _group(row: Any) -> Group:
    return Group(row.id, row.display_name, row.created_at)


class GroupRepository:
    """Rows of `groups`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, group: Group) -> bool:
        """Store a group and return whether it is new."""
        values = {"id": group.id, "display_name": group.display_name, "created_at": group.created_at}
        return await insert_ignore(self._connection, _TABLE, values)

    async def get(self, group_id: str) -> Group | None:
        """Return a group by id."""
        row = (await self._connection.execute(select(_TABLE).where(_TABLE.c.id == group_id))).one_or_none()
        return _group(row) if row else None

    async def page(self, after: str, limit: int) -> list[Group]:
        """Return up to `limit` groups with ids greater than `after`, by id."""
        rows = await self._connection.execute(
            select(_TABLE).where(_TABLE.c.id > after).order_by(_TABLE.c.id).limit(limit)
        )
        return [_group(row) for row in rows]

    async def any_exists(self) -> bool:
        """Return whether there is a group."""
        return (await self._connection.execute(select(_TABLE.c.id).limit(1))).first() is not None

    async def lock(self, group_id: str) -> bool:
        """Let changes of one group's members wait for each other; return whether the group exists."""
        result = await self._connection.execute(
            update(_TABLE).where(_TABLE.c.id == group_id).values(display_name=_TABLE.c.display_name)
        )
        return bool(result.rowcount)

    async def delete(self, group_id: str) -> bool:
        """Remove a group with all that belongs to it here, limits included; return whether it existed."""
        for table in (
            tables.memberships,
            tables.secrets,
            tables.service_tokens,
            tables.grants,
            tables.requests,
            tables.group_limits,
            tables.lowered_group_limits,
            tables.group_calls,
            tables.group_streams,
        ):
            await self._connection.execute(delete(table).where(table.c.group_id == group_id))
        return bool((await self._connection.execute(delete(_TABLE).where(_TABLE.c.id == group_id))).rowcount)


async def read_existing(database: Database, group_ids: set[str]) -> set[str]:
    """Return those of the ids that are groups. One statement needs no transaction."""
    return {row["id"] for row in await database.fetch(select(_TABLE.c.id).where(_TABLE.c.id.in_(group_ids)))}
