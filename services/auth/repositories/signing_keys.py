"""Keys that principal tokens are signed with."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import Sealed, SigningKey, SigningKeyState
from services.common.db.upsert import insert_ignore

_TABLE = tables.signing_keys


def _key(row: Any) -> SigningKey:
    return SigningKey(
        kid=row.kid,
        state=row.state,
        public_key=row.public_key,
        sealed_private_key=Sealed(row.key_id, row.sealed),
        created_at=row.created_at,
        changed_at=row.changed_at,
    )


class SigningKeyRepository:
    """Rows of `signing_keys`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def all(self) -> list[SigningKey]:
        """Return all keys, newest first."""
        rows = await self._connection.execute(select(_TABLE).order_by(_TABLE.c.created_at.desc(), _TABLE.c.kid))
        return [_key(row) for row in rows]

    async def add(self, key: SigningKey) -> bool:
        """Store a key and return whether no other replica was first."""
        return await insert_ignore(
            self._connection,
            _TABLE,
            {
                "kid": key.kid,
                "state": key.state,
                "public_key": key.public_key,
                "key_id": key.sealed_private_key.key_id,
                "sealed": key.sealed_private_key.blob,
                "created_at": key.created_at,
                "changed_at": key.changed_at,
            },
        )

    async def move(self, kid: str, from_state: SigningKeyState, to_state: SigningKeyState, now: datetime) -> bool:
        """Move a key to its next state and return whether no other replica was first."""
        result = await self._connection.execute(
            update(_TABLE)
            .where(_TABLE.c.kid == kid, _TABLE.c.state == from_state)
            .values(state=to_state, changed_at=now)
        )
        return bool(result.rowcount)

    async def delete(self, kid: str) -> None:
        """Forget a key."""
        await self._connection.execute(delete(_TABLE).where(_TABLE.c.kid == kid))
