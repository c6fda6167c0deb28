"""Tokens of groups, by their hash."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import ServiceToken
from services.common.db.database import Database
from services.common.db.upsert import insert_ignore

_TABLE = tables.service_tokens
_KEY = (_TABLE.c.group_id, _TABLE.c.name)
# The time of the last use is for people: it is not written with every call.
_USE_PAUSE = timedelta(minutes=1)


def _token(row: Any) -> ServiceToken:
    return ServiceToken(
        group_id=row["group_id"],
        name=row["name"],
        role=row["role"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
    )


class ServiceTokenRepository:
    """Rows of `service_tokens`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, token: ServiceToken, token_hash: str) -> bool:
        """Store a token and return whether its name was free."""
        return await insert_ignore(
            self._connection,
            _TABLE,
            {
                "group_id": token.group_id,
                "name": token.name,
                "token_hash": token_hash,
                "role": token.role,
                "created_by": token.created_by,
                "created_at": token.created_at,
                "expires_at": token.expires_at,
                "last_used_at": None,
            },
        )

    async def page(self, group_id: str, after: str, limit: int) -> list[ServiceToken]:
        """Return up to `limit` tokens of a group with names greater than `after`, by name."""
        rows = await self._connection.execute(
            select(_TABLE)
            .where(_TABLE.c.group_id == group_id, _TABLE.c.name > after)
            .order_by(_TABLE.c.name)
            .limit(limit)
        )
        return [_token(row) for row in rows.mappings()]

    async def move(self, group_id: str, name: str, created_at: datetime) -> None:
        """Store another time at which a token was made."""
        await self._connection.execute(
            update(_TABLE).where(_TABLE.c.group_id == group_id, _TABLE.c.name == name).values(created_at=created_at)
        )

    async def made_by(self, subject: str, group_id: str) -> list[tuple[str, str]]:
        """Return group and name of the tokens that a subject made in a group ("" for all)."""
        made = select(*_KEY).where(_TABLE.c.created_by == subject).order_by(*_KEY)
        if group_id:
            made = made.where(_TABLE.c.group_id == group_id)
        return [(row.group_id, row.name) for row in await self._connection.execute(made)]

    async def expired(self, before: datetime) -> list[tuple[str, str]]:
        """Return group and name of the tokens that expired before a moment."""
        expired = select(*_KEY).where(_TABLE.c.expires_at < before).order_by(*_KEY)
        return [(row.group_id, row.name) for row in await self._connection.execute(expired)]

    async def remove(self, group_id: str, name: str) -> bool:
        """Remove a token and return whether there was one."""
        removed = delete(_TABLE).where(_TABLE.c.group_id == group_id, _TABLE.c.name == name)
        return bool((await self._connection.execute(removed)).rowcount)

    async def note_use(self, token_hash: str, now: datetime) -> None:
        """Store that a token was used, unless that was stored a moment ago."""
        unknown = or_(_TABLE.c.last_used_at.is_(None), _TABLE.c.last_used_at < now - _USE_PAUSE)
        await self._connection.execute(
            update(_TABLE).where(_TABLE.c.token_hash == token_hash, unknown).values(last_used_at=now)
        )


async def read_named_token(database: Database, group_id: str, name: str) -> ServiceToken | None:
    """Return a token of a group."""
    rows = await database.fetch(select(_TABLE).where(_TABLE.c.group_id == group_id, _TABLE.c.name == name))
    return _token(rows[0]) if rows else None


async def read_service_token(database: Database, token_hash: str) -> ServiceToken | None:
    """Return the token of a hash."""
    rows = await database.fetch(select(_TABLE).where(_TABLE.c.token_hash == token_hash))
    return _token(rows[0]) if rows else None
