"""Stored secrets, sealed."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import Sealed, Secret
from services.common.db.database import Database
from services.common.db.upsert import insert_ignore

_TABLE = tables.secrets


def _secret(row: Mapping[Any, Any]) -> Secret:
    return Secret(
        id=row["id"],
        group_id=row["group_id"],
        name=row["name"],
        version=row["version"],
        fingerprint=row["fingerprint"],
        allowed_origins=tuple(row["allowed_origins"]),
        sealed=Sealed(row["key_id"], row["sealed"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


async def read_secret(database: Database, group_id: str, name: str) -> Secret | None:
    """Return a group's secret by name. One statement needs no transaction."""
    rows = await database.fetch(select(_TABLE).where(_TABLE.c.group_id == group_id, _TABLE.c.name == name))
    return _secret(rows[0]) if rows else None


def _values(secret: Secret) -> Mapping[str, Any]:
    return {
        "id": secret.id,
        "group_id": secret.group_id,
        "name": secret.name,
        "version": secret.version,
        "fingerprint": secret.fingerprint,
        "allowed_origins": list(secret.allowed_origins),
        "key_id": secret.sealed.key_id,
        "sealed": secret.sealed.blob,
        "created_at": secret.created_at,
        "updated_at": secret.updated_at,
    }


class SecretRepository:
    """Rows of `secrets`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, group_id: str, name: str, *, lock: bool = False) -> Secret | None:
        """Return a group's secret by name; `lock` keeps other writers waiting until the transaction ends."""
        query = select(_TABLE).where(_TABLE.c.group_id == group_id, _TABLE.c.name == name)
        result = await self._connection.execute(query.with_for_update() if lock else query)
        row = result.mappings().one_or_none()
        return _secret(row) if row else None

    async def add(self, secret: Secret) -> bool:
        """Store a new secret and return whether its name was free."""
        return await insert_ignore(self._connection, _TABLE, _values(secret))

    async def replace(self, secret: Secret) -> bool:
        """Store the next version of a secret and return whether the one before it still stood."""
        values = dict(_values(secret))
        for name in ("id", "created_at"):
            del values[name]
        result = await self._connection.execute(
            update(_TABLE).where(_TABLE.c.id == secret.id, _TABLE.c.version == secret.version - 1).values(**values)
        )
        return bool(result.rowcount)

    async def count(self, group_id: str) -> int:
        """Return how many secrets a group has."""
        statement = select(func.count()).select_from(_TABLE).where(_TABLE.c.group_id == group_id)
        return int((await self._connection.execute(statement)).scalar_one())

    async def page(self, group_id: str, after: str, limit: int) -> list[Secret]:
        """Return up to `limit` of a group's secrets with names greater than `after`, by name."""
        rows = await self._connection.execute(
            select(_TABLE)
            .where(_TABLE.c.group_id == group_id, _TABLE.c.name > after)
            .order_by(_TABLE.c.name)
            .limit(limit)
        )
        return [_secret(row) for row in rows.mappings()]

    async def delete(self, group_id: str, name: str) -> bool:
        """Remove a group's secret and return whether it was there."""
        result = await self._connection.execute(
            delete(_TABLE).where(_TABLE.c.group_id == group_id, _TABLE.c.name == name)
        )
        return bool(result.rowcount)
