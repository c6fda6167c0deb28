"""Memberships of groups."""

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import cast, delete, func, literal, null, select, update
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
    return Member(row.subject, row.role, row.created_at, row.invited_at is not None)


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

    async def put(self, group_id: str, subject: str, role: Role, *, invited: bool) -> Member:
        """Store a membership, as an invitation or not, or change the role of one, and return it."""
        now = utc_now()
        row = await insert_or_update(
            self._connection,
            _TABLE,
            {
                "group_id": group_id,
                "subject": subject,
                "role": role,
                "created_at": now,
                "invited_at": now if invited else None,
            },
            key=("group_id", "subject"),
            update=("role",),
        )
        return _member(row)

    async def accept(self, group_id: str, subject: str) -> Role | None:
        """Make an invitation a membership, and return its role; None if there is none any more."""
        role: Role | None = await self._connection.scalar(
            update(_TABLE)
            .where(_TABLE.c.group_id == group_id, _TABLE.c.subject == subject)
            .values(invited_at=None)
            .returning(_TABLE.c.role)
        )
        return role

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
            .where(
                _TABLE.c.group_id == group_id,
                _TABLE.c.role == Role.ADMIN,
                _TABLE.c.subject != subject,
                _TABLE.c.invited_at.is_(None),
            )
        )
        return int(count.scalar_one())

    async def count(self, group_id: str) -> int:
        """Return how many members, with those who are invited, a group has."""
        statement = select(func.count()).select_from(_TABLE).where(_TABLE.c.group_id == group_id)
        return int((await self._connection.execute(statement)).scalar_one())

    async def page(self, group_id: str, after: str, limit: int) -> list[Member]:
        """Return up to `limit` members of a group with subjects greater than `after`, by subject."""
        rows = await self._connection.execute(
            select(_TABLE)
            .where(_TABLE.c.group_id == group_id, _TABLE.c.subject > after)
            .order_by(_TABLE.c.subject)
            .limit(limit)
        )
        return [_member(row) for row in rows]


@dataclass(frozen=True, slots=True)
class StoredRoles:
    """What is stored of a subject, by group id."""

    accepted: dict[str, Role]
    invited: dict[str, Role]
    platform_admin: bool


async def read_roles(database: Database, subject: str) -> StoredRoles:
    """Return a subject's role in each group it is a member of or invited to, and whether it is a platform admin."""
    # One statement without a transaction, as every exchange of a credential reads this.
    rows = await database.fetch(
        select(_TABLE.c.group_id, _TABLE.c.role, _TABLE.c.invited_at)
        .where(_TABLE.c.subject == subject)
        .union_all(
            select(
                _ADMINS.c.subject,
                literal(Role.PLATFORM_ADMIN, _TABLE.c.role.type),
                cast(null(), _TABLE.c.invited_at.type),
            ).where(_ADMINS.c.subject == subject)
        )
    )
    stored = StoredRoles({}, {}, platform_admin=False)
    for row in rows:
        if row["role"] is Role.PLATFORM_ADMIN:
            stored = replace(stored, platform_admin=True)
        else:
            (stored.accepted if row["invited_at"] is None else stored.invited)[row["group_id"]] = row["role"]
    return stored
