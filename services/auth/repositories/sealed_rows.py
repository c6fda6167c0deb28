"""The sealed values of all tables, for rotation."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Table, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import Sealed

_KEYS: Mapping[Table, str] = {tables.signing_keys: "kid", tables.secrets: "id", tables.credential_sessions: "id"}
TABLES = tuple(table.name for table in _KEYS)
"""The tables that hold sealed values."""


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A sealed value and what it is bound to."""

    table: str
    row: str
    group: str
    name: str
    version: int
    sealed: Sealed


def _table(name: str) -> Table:
    return tables.metadata.tables[name]


class SealedRowRepository:
    """Rows of every table that holds sealed values."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def count_by_key(self) -> Counter[str]:
        """Return how many values each key seals."""
        counts: Counter[str] = Counter()
        for table in _KEYS:
            rows = await self._connection.execute(
                select(table.c.key_id, func.count()).where(table.c.key_id.is_not(None)).group_by(table.c.key_id)
            )
            for key_id, count in rows:
                counts[key_id] += count
        return counts

    async def under_other_keys(self, table_name: str, key_id: str, after: str, limit: int) -> list[SealedRow]:
        """Return up to `limit` rows of a table that another key seals, with row ids greater than `after`, by row id."""
        table = _table(table_name)
        row_id = table.c[_KEYS[table]]
        rows = await self._connection.execute(
            select(table).where(table.c.key_id != key_id, row_id > after).order_by(row_id).limit(limit)
        )
        return [
            SealedRow(
                table=table_name,
                row=values[_KEYS[table]],
                group=values.get("group_id", ""),
                name=values.get("name", ""),
                version=values.get("version", 0),
                sealed=Sealed(values["key_id"], values["sealed"]),
            )
            for values in rows.mappings()
        ]

    async def replace(self, row: SealedRow, sealed: Sealed, changes: Mapping[str, str]) -> bool:
        """Store a value sealed anew with further changes; return whether it was unchanged meanwhile."""
        table = _table(row.table)
        result = await self._connection.execute(
            update(table)
            .where(table.c[_KEYS[table]] == row.row, table.c.sealed == row.sealed.blob)
            .values(key_id=sealed.key_id, sealed=sealed.blob, **changes)
        )
        return bool(result.rowcount)
