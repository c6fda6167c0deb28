"""Removing records past their time, a portion in each transaction: writers of the namespace wait for one at most."""

from datetime import datetime

from sqlalchemy import ColumnElement, Table, select

from services.common.db.access import DatabaseAccess
from services.memory.domain.moments import microseconds
from services.memory.domain.records import MemoryKind
from services.memory.repositories.namespaces import NamespaceRepository
from services.memory.stores.sql.statements import ROWS_IN_CHUNK, delete_some
from services.memory.tables import records


async def remove_expired(database: DatabaseAccess, now: datetime) -> int:
    """Remove what has expired in all namespaces, and return how many records."""
    removed = 0
    for table in (records[kind] for kind in MemoryKind):
        expired = select(table.c.namespace_id).where(_expired(table, now)).distinct()
        for row in await database.fetch(expired):
            some = ROWS_IN_CHUNK
            while some == ROWS_IN_CHUNK:
                namespace_id = row["namespace_id"]
                owned = table.c.namespace_id == namespace_id
                some = await remove_expired_portion(database, table, namespace_id, owned, now)
                removed += some
    return removed


async def remove_expired_portion(
    database: DatabaseAccess, table: Table, namespace_id: str, owned: ColumnElement[bool], now: datetime
) -> int:
    """Remove up to `ROWS_IN_CHUNK` of a namespace's own rows that have expired, and return how many."""
    async with database.write() as connection:
        namespaces = NamespaceRepository(connection)
        await namespaces.hold(namespace_id)
        removed = await delete_some(connection, table, [owned, _expired(table, now)])
        if removed:
            version = await namespaces.raise_version(namespace_id)
            await namespaces.remove_records(namespace_id, version, removed)
    return removed


def _expired(table: Table, now: datetime) -> ColumnElement[bool]:
    return table.c.expires_us <= microseconds(now)
