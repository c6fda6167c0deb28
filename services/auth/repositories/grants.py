"""Grants: which execution may act for whom."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import Claim, Grant
from services.common.db.database import Database
from services.common.db.upsert import insert_ignore

_TABLE = tables.grants


def _grant(columns: Mapping[Any, Any]) -> Grant:
    return Grant(
        id=columns["id"],
        execution_id=columns["execution_id"],
        group_id=columns["group_id"],
        subject=columns["subject"],
        identity=columns["identity"],
        on_credential_expiry=columns["on_credential_expiry"],
        credential_kind=columns["credential_kind"],
        session_id=columns["session_id"],
        credential_expires_at=columns["credential_expires_at"],
        claim=_claim(columns),
        created_at=columns["created_at"],
        revoked_at=columns["revoked_at"],
    )


def _claim(columns: Mapping[Any, Any]) -> Claim | None:
    if columns["claimed_role"] is None:
        return None
    # Releases that did not store when a role was claimed made the grant at that moment.
    return Claim(columns["claimed_role"], columns["claimed_at"] or columns["created_at"])


def _claimed(claim: Claim | None) -> dict[str, Any]:
    return {
        "claimed_role": claim.role if claim is not None else None,
        "claimed_at": claim.seen_at if claim is not None else None,
    }


class GrantRepository:
    """Rows of `grants`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, grant: Grant) -> bool:
        """Store a grant and return whether its execution had none."""
        return await insert_ignore(
            self._connection,
            _TABLE,
            {
                "id": grant.id,
                "execution_id": grant.execution_id,
                "group_id": grant.group_id,
                "subject": grant.subject,
                "identity": grant.identity,
                "on_credential_expiry": grant.on_credential_expiry,
                "credential_kind": grant.credential_kind,
                "session_id": grant.session_id,
                "credential_expires_at": grant.credential_expires_at,
                "created_at": grant.created_at,
                "revoked_at": grant.revoked_at,
            }
            | _claimed(grant.claim),
        )

    async def of_execution(self, execution_id: str) -> Grant | None:
        """Return the grant of an execution."""
        rows = await self._connection.execute(select(_TABLE).where(_TABLE.c.execution_id == execution_id))
        columns = rows.mappings().one_or_none()
        return _grant(columns) if columns else None

    async def renew(self, grant_id: str, session_id: str, expires_at: datetime, claim: Claim | None) -> bool:
        """Attach another session to a grant that stands, and return whether it does."""
        result = await self._connection.execute(
            update(_TABLE)
            .where(_TABLE.c.id == grant_id, _TABLE.c.revoked_at.is_(None))
            .values(session_id=session_id, credential_expires_at=expires_at, **_claimed(claim))
        )
        return bool(result.rowcount)

    async def revoke(self, execution_id: str, now: datetime) -> None:
        """End the grant of an execution, if it stands."""
        await self._connection.execute(
            update(_TABLE)
            .where(_TABLE.c.execution_id == execution_id, _TABLE.c.revoked_at.is_(None))
            .values(revoked_at=now)
        )

    async def revoke_of_subject(self, subject: str, group_id: str, now: datetime) -> int:
        """End the grants of a subject in a group ("" for all) and return how many."""
        ended = update(_TABLE).where(_TABLE.c.subject == subject, _TABLE.c.revoked_at.is_(None))
        if group_id:
            ended = ended.where(_TABLE.c.group_id == group_id)
        return int((await self._connection.execute(ended.values(revoked_at=now))).rowcount)

    async def delete_revoked(self, before: datetime) -> int:
        """Remove grants that ended before a moment and return how many."""
        return int((await self._connection.execute(delete(_TABLE).where(_TABLE.c.revoked_at < before))).rowcount)


async def read_grant(database: Database, grant_id: str) -> Grant | None:
    """Return a grant by id. Every execution asks for its principal by it: one statement needs no transaction."""
    rows = await database.fetch(select(_TABLE).where(_TABLE.c.id == grant_id))
    return _grant(rows[0]) if rows else None
