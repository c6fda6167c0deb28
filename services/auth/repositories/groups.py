"""Groups, memberships and administrators of the installation."""

from typing import Any

from sqlalchemy import delete, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import Group, Member
from services.common.clock import utc_now
from services.common.db.upsert import insert_ignore, insert_or_update
from services.common.identity.principal import Role

_GROUPS = tables.groups
_MEMBERS = tables.memberships
_ADMINS = tables.platform_admins


def _member(row: Any) -> Member:
    return Member(row.subject, Role(row.role), row.created_at)


async def add(connection: AsyncConnection, group: Group) -> bool:
    """Store a group and return whether it is new."""
    return await insert_ignore(
        connection,
        _GROUPS,
        {"id": group.id, "display_name": group.display_name, "created_at": group.created_at},
    )


async def get(connection: AsyncConnection, group_id: str) -> Group | None:
    """Return a group by id."""
    row = (await connection.execute(select(_GROUPS).where(_GROUPS.c.id == group_id))).one_or_none()
    return Group(row.id, row.display_name, row.created_at) if row else None


async def page(connection: AsyncConnection, after: str, limit: int) -> list[Group]:
    """Return up to `limit` groups with ids greater than `after`, by id."""
    rows = await connection.execute(select(_GROUPS).where(_GROUPS.c.id > after).order_by(_GROUPS.c.id).limit(limit))
    return [Group(row.id, row.display_name, row.created_at) for row in rows]


async def any_exists(connection: AsyncConnection) -> bool:
    """Return whether there is a group."""
    return (await connection.execute(select(_GROUPS.c.id).limit(1))).first() is not None


async def existing(connection: AsyncConnection, group_ids: set[str]) -> set[str]:
    """Return those of the ids that are groups."""
    if not group_ids:
        return set()
    return set((await connection.execute(select(_GROUPS.c.id).where(_GROUPS.c.id.in_(group_ids)))).scalars())


async def delete_group(connection: AsyncConnection, group_id: str) -> bool:
    """Remove a group with its memberships, secrets and grants; return whether it was there."""
    for table in (_MEMBERS, tables.secrets, tables.grants, tables.requests):
        await connection.execute(delete(table).where(table.c.group_id == group_id))
    return bool((await connection.execute(delete(_GROUPS).where(_GROUPS.c.id == group_id))).rowcount)


async def standing_of(connection: AsyncConnection, subject: str) -> tuple[dict[str, Role], bool]:
    """Return the groups a subject is a stored member of, with its roles, and whether it is a platform admin."""
    # One statement, as this is read whenever somebody signs in.
    rows = await connection.execute(
        select(_MEMBERS.c.group_id, _MEMBERS.c.role)
        .where(_MEMBERS.c.subject == subject)
        .union_all(select(_ADMINS.c.subject, literal(int(Role.PLATFORM_ADMIN))).where(_ADMINS.c.subject == subject))
    )
    roles: dict[str, Role] = {}
    platform_admin = False
    for group_id, role in rows:
        if role == Role.PLATFORM_ADMIN:
            platform_admin = True
        else:
            roles[group_id] = Role(role)
    return roles, platform_admin


async def get_member(connection: AsyncConnection, group_id: str, subject: str) -> Member | None:
    """Return one membership."""
    rows = await connection.execute(
        select(_MEMBERS).where(_MEMBERS.c.group_id == group_id, _MEMBERS.c.subject == subject)
    )
    row = rows.one_or_none()
    return _member(row) if row else None


async def set_member(connection: AsyncConnection, group_id: str, subject: str, role: Role) -> Member:
    """Store a membership or change its role, and return it."""
    row = await insert_or_update(
        connection,
        _MEMBERS,
        {"group_id": group_id, "subject": subject, "role": int(role), "created_at": utc_now()},
        key=("group_id", "subject"),
        update=("role",),
    )
    return _member(row)


async def remove_member(connection: AsyncConnection, group_id: str, subject: str) -> bool:
    """End a membership and return whether there was one."""
    result = await connection.execute(
        delete(_MEMBERS).where(_MEMBERS.c.group_id == group_id, _MEMBERS.c.subject == subject)
    )
    return bool(result.rowcount)


async def other_admins(connection: AsyncConnection, group_id: str, subject: str) -> int:
    """Return how many admins the group has beside `subject`."""
    count = await connection.execute(
        select(func.count())
        .select_from(_MEMBERS)
        .where(_MEMBERS.c.group_id == group_id, _MEMBERS.c.role == int(Role.ADMIN), _MEMBERS.c.subject != subject)
    )
    return int(count.scalar_one())


async def lock(connection: AsyncConnection, group_id: str) -> bool:
    """Let changes of one group's members wait for each other; return whether the group exists."""
    result = await connection.execute(
        update(_GROUPS).where(_GROUPS.c.id == group_id).values(display_name=_GROUPS.c.display_name)
    )
    return bool(result.rowcount)


async def members_page(connection: AsyncConnection, group_id: str, after: str, limit: int) -> list[Member]:
    """Return up to `limit` members with subjects greater than `after`, by subject."""
    rows = await connection.execute(
        select(_MEMBERS)
        .where(_MEMBERS.c.group_id == group_id, _MEMBERS.c.subject > after)
        .order_by(_MEMBERS.c.subject)
        .limit(limit)
    )
    return [_member(row) for row in rows]


async def any_platform_admin(connection: AsyncConnection) -> bool:
    """Return whether anybody administers the installation."""
    return (await connection.execute(select(_ADMINS.c.subject).limit(1))).first() is not None


async def add_platform_admin(connection: AsyncConnection, subject: str) -> bool:
    """Let a subject administer the installation; return whether that is new."""
    return await insert_ignore(connection, _ADMINS, {"subject": subject, "created_at": utc_now()})
