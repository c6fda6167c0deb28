"""Administrators of the installation."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.common.clock import utc_now
from services.common.db.upsert import insert_ignore

_TABLE = tables.platform_admins


class PlatformAdminRepository:
    """Rows of `platform_admins`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def any_exists(self) -> bool:
        """Return whether the installation has a stored platform admin."""
        return (await self._connection.execute(select(_TABLE.c.subject).limit(1))).first() is not None

    async def add(self, subject: str) -> bool:
        """Let a subject administer the installation; return whether that is new."""
        return await insert_ignore(self._connection, _TABLE, {"subject": subject, "created_at": utc_now()})
