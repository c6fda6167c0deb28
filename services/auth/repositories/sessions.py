"""Credential sessions: what auth keeps of a verified credential until it expires."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import Sealed, Session
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.named_locks import lock_name
from services.common.db.upsert import insert_or_update
from services.common.identity.principal import Role

_TABLE = tables.credential_sessions
_CHANGES = tables.access_changes


def _session(columns: Mapping[str, Any]) -> Session:
    return Session(
        id=columns["id"],
        subject=columns["subject"],
        kind=columns["kind"],
        origin=columns["origin"],
        expires_at=columns["expires_at"],
        claimed_roles={group_id: Role(role) for group_id, role in columns["claimed_roles"].items()},
        sealed_token=Sealed(columns["key_id"], columns["sealed"]) if columns["sealed"] is not None else None,
    )


class SessionRepository:
    """Rows of `credential_sessions`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, credential_hash: str, session: Session, known_since: datetime) -> tuple[str, datetime, bool]:
        """Store a session, or what was found anew about the same credential; `known_since` counts for a new one.

        Returns the id it is kept under, since when the credential is known, and whether a token is kept.
        """
        sealed = session.sealed_token
        values = {
            "id": session.id,
            "credential_hash": credential_hash,
            "subject": session.subject,
            "kind": session.kind,
            "origin": session.origin,
            "claimed_roles": {group_id: int(role) for group_id, role in session.claimed_roles.items()},
            "key_id": sealed.key_id if sealed else None,
            "sealed": sealed.blob if sealed else None,
            "expires_at": session.expires_at,
            "created_at": known_since,
        }
        # The sealed token stays: it is bound to the id of the row that was there first.
        stored = await insert_or_update(
            self._connection,
            _TABLE,
            values,
            key=("credential_hash",),
            update=("subject", "kind", "origin", "claimed_roles", "expires_at"),
        )
        return str(stored.id), stored.created_at, stored.sealed is not None

    async def of_subject(self, subject: str) -> tuple[int, datetime]:
        """Return how many sessions of a subject have not expired, and when the first of them does; others wait."""
        await lock_name(self._connection, f"sessions/{subject}")
        now = utc_now()
        result = await self._connection.execute(
            select(func.count(), func.min(_TABLE.c.expires_at)).where(
                _TABLE.c.subject == subject, _TABLE.c.expires_at > now
            )
        )
        count, first = result.one()
        return count, first or now

    async def keep_token(self, session_id: str, sealed: Sealed) -> None:
        """Store the token of a session that was kept without it."""
        await self._connection.execute(
            update(_TABLE).where(_TABLE.c.id == session_id).values(key_id=sealed.key_id, sealed=sealed.blob)
        )

    async def drop_tokens(self, subject: str) -> None:
        """Remove the tokens that are kept of a subject."""
        await self._connection.execute(
            update(_TABLE).where(_TABLE.c.subject == subject).values(key_id=None, sealed=None, expires_at=utc_now())
        )

    async def delete_expired(self, before: datetime) -> int:
        """Remove sessions that expired before a moment and return how many.

        Those of before the access of their subject was revoked stay, without the token: they tell since when a
        credential is known.
        """
        has_expired = _TABLE.c.expires_at < before
        revoked = exists().where(_CHANGES.c.subject == _TABLE.c.subject, _CHANGES.c.revoked_at >= _TABLE.c.created_at)
        removed = int((await self._connection.execute(delete(_TABLE).where(has_expired, ~revoked))).rowcount)
        await self._connection.execute(
            update(_TABLE).where(has_expired, _TABLE.c.sealed.is_not(None)).values(key_id=None, sealed=None)
        )
        return removed


async def read_session(database: Database, session_id: str) -> Session | None:
    """Return a session by id. Callers show theirs all the time: one statement needs no transaction."""
    rows = await database.fetch(select(_TABLE).where(_TABLE.c.id == session_id))
    return _session(rows[0]) if rows else None
