"""Which keys of the ring have been used, and which one seals."""

from dataclasses import dataclass

from sqlalchemy import select, update
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


class EncryptionKeyRepository:
    """Rows of `encryption_keys`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def all(self) -> list[KnownKey]:
        """Return all keys, oldest first."""
        rows = await self._connection.execute(
            select(_TABLE.c.key_id, _TABLE.c.check_value, _TABLE.c.sealing).order_by(
                _TABLE.c.created_at, _TABLE.c.key_id
            )
        )
        return [KnownKey(*row) for row in rows]

    async def sealing_key_id(self) -> str:
        """Return the id of the key that seals new values."""
        return str((await self._connection.execute(select(_TABLE.c.key_id).where(_TABLE.c.sealing))).scalar_one())

    async def add(self, key_id: str, check_value: bytes, *, sealing: bool) -> None:
        """Remember a key; does nothing when another replica was first."""
        await insert_ignore(
            self._connection,
            _TABLE,
            {"key_id": key_id, "check_value": check_value, "sealing": sealing, "created_at": utc_now()},
        )

    async def seal_with(self, key_id: str) -> None:
        """Make a known key the one that seals."""
        await self._connection.execute(
            update(_TABLE).where(_TABLE.c.sealing, _TABLE.c.key_id != key_id).values(sealing=False)
        )
        await self._connection.execute(update(_TABLE).where(_TABLE.c.key_id == key_id).values(sealing=True))
