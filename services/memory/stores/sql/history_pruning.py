"""Which former versions go: those that are too old, and those of groups that have too many bytes of them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    LargeBinary,
    Table,
    Text,
    cast,
    delete,
    func,
    literal,
    select,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from services.memory.domain.moments import microseconds, moment_of
from services.memory.domain.records import MemoryKind
from services.memory.rows.columns import Column
from services.memory.stores.sql.statements import ROWS_IN_CHUNK
from services.memory.tables import history_policies, versions

_LAST_US: Final = microseconds(datetime.max.replace(tzinfo=UTC))
"""Later times are those of rows that something else has written."""
_ROW_BYTES: Final = 500
"""What a version takes beside its texts, with its entries in indexes."""


async def groups_to_prune(
    connection: AsyncConnection, kind: MemoryKind, ended_before: datetime, group_id: str | None
) -> Sequence[str]:
    """Return which of one group, or (None) of all without a policy, have versions that ended before a time."""
    table = versions[kind]

    def has_ended(whose: Any) -> ColumnElement[bool]:
        ended = table.c[Column.GROUP_ID] == whose, table.c.ended_us <= microseconds(ended_before)
        return select(table.c.place).where(*ended).exists()

    if group_id is not None:
        statement = select(literal(group_id)).where(has_ended(group_id))
    else:
        groups = _groups_of(table)
        own = groups.c.id.in_(select(history_policies.c.group_id))
        statement = select(groups.c.id).where(groups.c.id.is_not(None), ~own, has_ended(groups.c.id))
    return list((await connection.execute(statement)).scalars())


async def prune(
    connection: AsyncConnection, kind: MemoryKind, ended_before: datetime, group_id: str, *, by_default: bool
) -> int:
    """Remove a portion of the versions of a group that ended before a time, and return how many.

    `by_default`: none if the group has a policy by now.
    """
    table = versions[kind]
    clauses = [table.c[Column.GROUP_ID] == group_id, table.c.ended_us <= microseconds(ended_before)]
    if by_default:
        clauses.append(literal(group_id).not_in(select(history_policies.c.group_id)))
    return await delete_portion(connection, table, *clauses)


async def groups_with_versions(
    connection: AsyncConnection, kind: MemoryKind, ended_after: datetime | None
) -> Sequence[str]:
    """Return the groups that have versions which ended after a time; None: at any time."""
    table = versions[kind]
    groups = _groups_of(table)
    statement = select(groups.c.id).where(groups.c.id.is_not(None))
    if ended_after is not None:
        ended = table.c[Column.GROUP_ID] == groups.c.id, table.c.ended_us > microseconds(ended_after)
        statement = statement.where(select(table.c.place).where(*ended).exists())
    return list((await connection.execute(statement)).scalars())


async def ended_before_bytes(connection: AsyncConnection, group_id: str, most_bytes: int) -> datetime | None:
    """Return up to when those versions of a group ended that are too many beside later ones; None: it has less."""
    dialect = connection.dialect.name
    sizes = union_all(
        *(
            select(table.c.ended_us, _size(table, dialect).label("size")).where(table.c[Column.GROUP_ID] == group_id)
            for table in versions.values()
        )
    ).subquery()
    # What ended at the same moment counts together.
    later = func.sum(sizes.c.size).over(order_by=sizes.c.ended_us.desc()).label("later")
    running = select(sizes.c.ended_us, later).where(sizes.c.ended_us <= _LAST_US).subquery()
    last = await connection.scalar(select(func.max(running.c.ended_us)).where(running.c.later > most_bytes))
    return None if last is None else moment_of(last)


def _size(table: Table, dialect: str) -> ColumnElement[int]:
    size: ColumnElement[int] = literal(_ROW_BYTES, BigInteger())
    for column in table.c:
        if isinstance(column.type, Text):
            # SQLite counts characters of texts, and older versions know no octet_length.
            octets: ColumnElement[int] = (
                func.length(cast(column, LargeBinary)) if dialect == "sqlite" else func.octet_length(column)
            )
            size = size + func.coalesce(octets, 0)
    return size


def _groups_of(table: Table) -> CTE:
    """Return the groups that have versions, and NULL."""
    # From one group to the next in the index: the versions of all would be read to find the groups among them.
    groups = select(func.min(table.c[Column.GROUP_ID]).label("id")).cte("groups_with_versions", recursive=True)
    following = select(func.min(table.c[Column.GROUP_ID])).where(table.c[Column.GROUP_ID] > groups.c.id)
    return groups.union_all(select(following.scalar_subquery()).where(groups.c.id.is_not(None)))


async def delete_portion(connection: AsyncConnection, table: Table, *clauses: ColumnElement[bool]) -> int:
    """Remove some thousand rows of versions that meet the clauses, and return how many: fewer at the end."""
    some = select(table.c.place).where(*clauses).limit(ROWS_IN_CHUNK)
    removed: Any = await connection.execute(delete(table).where(table.c.place.in_(some)))
    return int(removed.rowcount)
