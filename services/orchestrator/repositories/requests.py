"""Requests that carried a request_id, in SQL."""

from datetime import datetime

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.requests import forget_requests, oldest_requests
from services.orchestrator.repositories.protocols import KnownRequest, RequestKey
from services.orchestrator.tables import requests


class SqlRequests:
    """See `protocols.Requests`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, key: RequestKey) -> KnownRequest | None:
        """See `protocols.Requests`."""
        row = (
            await self._connection.execute(
                select(requests.c.request_hash, requests.c.resource_id).where(
                    requests.c.group_id == key.group_id,
                    requests.c.subject == key.subject,
                    requests.c.method == key.method,
                    requests.c.request_id == key.request_id,
                )
            )
        ).first()
        return None if row is None else KnownRequest(row.request_hash, row.resource_id)

    async def claim(self, key: RequestKey, made: KnownRequest, at: datetime) -> KnownRequest | None:
        """See `protocols.Requests`."""
        try:
            # On PostgreSQL this waits for a transaction that claims the same key at the same time.
            async with self._connection.begin_nested():
                await self._connection.execute(
                    insert(requests).values(
                        group_id=key.group_id,
                        subject=key.subject,
                        method=key.method,
                        request_id=key.request_id,
                        request_hash=made.request_hash,
                        resource_id=made.resource_id,
                        created_at=at,
                    )
                )
        except IntegrityError:
            return await self.find(key)
        return None

    async def oldest(self, before: datetime) -> datetime | None:
        """See `protocols.Requests`."""
        return await oldest_requests(self._connection, requests, before)

    async def forget(self, until: datetime) -> int:
        """See `protocols.Requests`."""
        return await forget_requests(self._connection, requests, until)
