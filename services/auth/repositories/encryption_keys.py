"""Which keys of the ring have been used, and which one seals."""

from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.common.clock import utc_now
from services.common.db.upsert import insert_ignore

_TABLE = tables.encryption_keys


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that some replica has had in its ring."""

    key_id: str
    check_value: bytes
    sealing: bool


async def known(connection: AsyncConnection) -> list[KnownKey]:
    """Return all keys, oldest first."""
    rows = await connection.execute(
        select(_TABLE.c.key_id, _TABLE.c.check_value, _TABLE.c.sealing).order_by(_TABLE.c.created_at, _TABLE.c.key_id)
    )
    return [KnownKey(*row) for row in rows]


async def sealing_key_id(connection: AsyncConnection) -> str:
    """Return the id of the key that seals new values."""
    return str((await connection.execute(select(_TABLE.c.key_id).where(_TABLE.c.sealing))).scalar_one())


async def add(connection: AsyncConnection, key_id: str, check_value: bytes, *, sealing: bool) -> None:
    """Remember a key; does nothing when another replica was first."""
    await insert_ignore(
        connection,
        _TABLE,
        {"key_id": key_id, "check_value": check_value, "sealing": sealing, "created_at": utc_now()},
    )


async def seal_with(connection: AsyncConnection, key_id: str) -> None:
    """Make a known key the one that seals."""
    await connection.execute(update(_TABLE).where(_TABLE.c.sealing, _TABLE.c.key_id != key_id).values(sealing=False))
    await connection.execute(update(_TABLE).where(_TABLE.c.key_id == key_id).values(sealing=True))


async def in_use(connection: AsyncConnection) -> dict[str, int]:
    """Return how many values each key seals."""
    counts: dict[str, int] = {}
    for table in (tables.secrets, tables.signing_keys, tables.credential_sessions):
        rows = await connection.execute(
            select(table.c.key_id, func.count()).where(table.c.key_id.is_not(None)).group_by(table.c.key_id)
        )
        for key_id, count in rows:
            counts[key_id] = counts.get(key_id, 0) + count
    return counts
