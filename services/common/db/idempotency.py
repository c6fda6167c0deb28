"""Requests that carry a request_id: repeating one finds what the first one made.

Each service has a table of them, made by `requests_table`; old rows are removed.
"""

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from google.protobuf.message import Message
from sqlalchemy import Column, Index, MetaData, String, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.expiry import remove_before
from services.common.db.types import UtcDateTime
from services.common.db.upsert import insert_ignore
from services.common.errors import AlreadyExists
from services.common.identity.principal import Principal
from services.common.periodic import every

_REQUEST_ID = "request_id"


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes two requests the same one."""

    group_id: str
    subject: str
    method: str
    """Name of the RPC. Example: `CreateCrew`."""
    request_id: str
    request_hash: str
    """See `request_hash`."""


def request_hash(message: Message, *ignored_fields: str) -> str:
    """Return the SHA-256 (hex) of a request's content, without the named top-level fields."""
    if ignored_fields:
        # CopyFrom takes several times as long.
        copy = type(message).FromString(message.SerializeToString())
        for field in ignored_fields:
            copy.ClearField(field)
        message = copy
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()


def request_key(principal: Principal, message: Message) -> RequestKey | None:
    """Return what identifies a request message with a field `request_id`; None when that is empty."""
    request_id: str = getattr(message, _REQUEST_ID)
    if not request_id:
        return None
    method = message.DESCRIPTOR.name.removesuffix("Request")
    digest = request_hash(message, _REQUEST_ID)
    return RequestKey(principal.group_id, principal.subject, method, request_id, digest)


def requests_table(metadata: MetaData) -> Table:
    """Return the table of a service's requests."""
    return Table(
        "requests",
        metadata,
        Column("group_id", String(128), primary_key=True),
        Column("subject", String(512), primary_key=True),
        Column("method", String(128), primary_key=True),
        Column("request_id", String(128), primary_key=True),
        Column("request_hash", String(64), nullable=False),
        Column("resource_id", String(128), nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
        Index("ix_requests_created_at", "created_at"),
    )


class RequestRepository:
    """Rows of a table that `requests_table` made."""

    def __init__(self, connection: AsyncConnection, table: Table) -> None:
        self._connection = connection
        self._table = table

    async def find(self, key: RequestKey) -> str | None:
        """Return the id of the resource that the first such request made; None when there was none.

        Raises:
            AlreadyExists: the first request had another body.
        """
        columns = self._table.c
        found = await self._connection.execute(
            select(columns.request_hash, columns.resource_id).where(
                columns.group_id == key.group_id,
                columns.subject == key.subject,
                columns.method == key.method,
                columns.request_id == key.request_id,
            )
        )
        first = found.first()
        if first is None:
            return None
        if first.request_hash != key.request_hash:
            raise AlreadyExists.request_id(key.request_id)
        return str(first.resource_id)

    async def claim(self, key: RequestKey, resource_id: str) -> str:
        """Return the id of the resource that the first such request made: `resource_id` when this is the first one.

        On PostgreSQL this waits for a transaction that claims the same key at the same time.

        Raises:
            AlreadyExists: the first request had another body.
        """
        made = asdict(key) | {"resource_id": resource_id, "created_at": utc_now()}
        if await insert_ignore(self._connection, self._table, made):
            return resource_id
        return await self.find(key) or resource_id


async def forget_requests(database: Database, table: Table, before: datetime) -> int:
    """Remove the requests made before a time, oldest first and in portions; return how many there were."""
    return await remove_before(database, table.c.created_at, before)


async def forget_old_requests(
    database: Database, table: Table, *, pause_seconds: float, retention_seconds: float
) -> None:
    """Forget requests that are older than `retention_seconds`, every `pause_seconds` until cancelled."""
    retention = timedelta(seconds=retention_seconds)
    await every(pause_seconds, lambda: forget_requests(database, table, utc_now() - retention), name="old_requests")
