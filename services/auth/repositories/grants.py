"""Grants: which execution may act for whom."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import Claim, Grant
from services.common.db.upsert import insert_ignore

_TABLE = tables.grants


def _grant(row: Any) -> Grant:
    return Grant(
        id=row.id,
        execution_id=row.execution_id,
        group_id=row.group_id,
        subject=row.subject,
        identity=row.identity,
        on_credential_expiry=row.on_credential_expiry,
        credential_kind=row.credential_kind,
        session_id=row.session_id,
        credential_expires_at=row.credential_expires_at,
        claim=_claim(row),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )


def _claim(row: Any) -> Claim | None:
    if row.claimed_role is None:
        return None
    # Releases that did not store when a role was claimed made the grant at that moment.
    return Claim(row.claimed_role, row.claimed_at or row.created_at)


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

    async def get(self, grant_id: str) -> Grant | None:
        """Return a grant by id."""
        row = (await self._connection.execute(select(_TABLE).where(_TABLE.c.id == grant_id))).one_or_none()
        return _grant(row) if row else None

    async def of_execution(self, execution_id: str) -> Grant | None:
        """Return the grant of an execution."""
        row = (
            await self._connection.execute(select(_TABLE).where(_TABLE.c.execution_id == execution_id))
        ).one_or_none()
        return _grant(row) if row else None

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

    async def delete_revoked(self, before: datetime) -> int:
        """Remove grants that ended before a moment and return how many."""
        return int((await self._connection.execute(delete(_TABLE).where(_TABLE.c.revoked_at < before))).rowcount)
