"""Memberships of groups."""

from typing import Any

from sqlalchemy import delete, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import Member
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.upsert import insert_or_update
from services.common.identity.principal import Role

_TABLE = tables.memberships
_ADMINS = tables.platform_admins


def _member(row: Any) -> Member:
    return Member(row.subject, row.role, row.created_at)


class MemberRepository:
    """Rows of `memberships`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, group_id: str, subject: str) -> Member | None:
        """Return one membership."""
        rows = await self._connection.execute(
            select(_TABLE).where(_TABLE.c.group_id == group_id, _TABLE.c.subject == subject)
        )
        row = rows.one_or_none()
        return _member(row) if row else None

    async def put(self, group_id: str, subject: str, role: Role) -> Member:
        """Store a membership or change its role, and return it."""
        row = await insert_or_update(
            self._connection,
            _TABLE,
            {"group_id": group_id, "subject": subject, "role": role, "created_at": utc_now()},
            key=("group_id", "subject"),
            update=("role",),
        )
        return _member(row)

    async def remove(self, group_id: str, subject: str) -> bool:
        """End a membership and return whether there was one."""
        result = await self._connection.execute(
            delete(_TABLE).where(_TABLE.c.group_id == group_id, _TABLE.c.subject == subject)
        )
        return bool(result.rowcount)

    async def other_admins(self, group_id: str, subject: str) -> int:
        """Return how many admins the group has beside `subject`."""
        count = await self._connection.execute(
            select(func.count())
            .select_from(_TABLE)
            .where(_TABLE.c.group_id == group_id, _TABLE.c.role == Role.ADMIN, _TABLE.c.subject != subject)
        )
        return int(count.scalar_one())

    async def page(self, group_id: str, after: str, limit: int) -> list[Member]:
        """Return up to `limit` members of a group with subjects greater than `after`, by subject."""
        rows = await self._connection.execute(
            select(_TABLE)
            .where(_TABLE.c.group_id == group_id, _TABLE.c.subject > after)
            .order_by(_TABLE.c.subject)
            .limit(limit)
        )
        return [_member(row) for row in rows]


async def read_roles(database: Database, subject: str) -> tuple[dict[str, Role], bool]:
    """Return a subject's role in each group it is a stored member of, and whether it is a platform admin."""
    # One statement without a transaction, as every exchange of a credential reads this.
    rows = await database.fetch(
        select(_TABLE.c.group_id, _TABLE.c.role)
        .where(_TABLE.c.subject == subject)
        .union_all(
            select(_ADMINS.c.subject, literal(Role.PLATFORM_ADMIN, _TABLE.c.role.type)).where(
                _ADMINS.c.subject == subject
            )
        )
    )
    roles = {row["group_id"]: row["role"] for row in rows if row["role"] is not Role.PLATFORM_ADMIN}
    return roles, any(row["role"] is Role.PLATFORM_ADMIN for row in rows)
