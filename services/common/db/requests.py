"""The end of remembered requests: tables of what a request_id made have a `created_at` with an index."""

from datetime import datetime

from sqlalchemy import Table, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

# More would keep other writers waiting.
PORTION = 1000


async def oldest_requests(connection: AsyncConnection, requests: Table, before: datetime) -> datetime | None:
    """Return when the last of the oldest portion made before a time was made; None when there is nothing that old."""
    made = select(requests.c.created_at).where(requests.c.created_at < before)
    oldest = made.order_by(requests.c.created_at).limit(PORTION).subquery()
    at: datetime | None = await connection.scalar(select(func.max(oldest.c.created_at)))
    return at


async def forget_requests(connection: AsyncConnection, requests: Table, until: datetime) -> int:
    """Remove the requests made up to a time, and return how many there were."""
    return (await connection.execute(delete(requests).where(requests.c.created_at <= until))).rowcount
