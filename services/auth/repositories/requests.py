"""Requests that were answered, by the id their caller gave them."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import forget_requests
from services.common.db.upsert import insert_ignore

_TABLE = tables.requests


async def claim(
    connection: AsyncConnection, key: tuple[str, str, str, str], request_hash: str, resource_id: str
) -> tuple[str, str]:
    """Remember a request by (group, subject, method, request_id) and return hash and resource of whoever was first."""
    group_id, subject, method, request_id = key
    values = {"group_id": group_id, "subject": subject, "method": method, "request_id": request_id}
    row = values | {"request_hash": request_hash, "resource_id": resource_id, "created_at": utc_now()}
    if await insert_ignore(connection, _TABLE, row):
        return request_hash, resource_id
    found = await connection.execute(
        select(_TABLE.c.request_hash, _TABLE.c.resource_id).where(
            *(_TABLE.c[name] == value for name, value in values.items())
        )
    )
    first = found.one()
    return first.request_hash, first.resource_id


async def forget(database: Database, before: datetime) -> int:
    """Remove the requests made before a time and return how many there were."""
    return await forget_requests(database, _TABLE, before)
