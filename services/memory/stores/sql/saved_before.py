"""What the default store holds of the records of a save."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.memory.domain.filters import Filter
from services.memory.domain.moments import microseconds, moment_of
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.near_copies import NearCopies
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.saves import SavePlan, StoredRecord, ids_to_read, plan_save
from services.memory.rows.columns import Column, metadata_column
from services.memory.rows.row import row_revision, row_ties
from services.memory.stores.sql.rows import parse_rows
from services.memory.stores.sql.statements import (
    IDS_IN_STATEMENT,
    TEXTS_IN_CHUNK,
    alive,
    chunks,
    living,
    looked_up,
    named,
    owned,
    owned_among,
    parts,
    row_columns,
)
from services.memory.tables import records

MOST_MEANWHILE: Final = TEXTS_IN_CHUNK
"""Records written since the searches for near-copies that are compared while others wait."""
_FILTERS_IN_STATEMENT: Final = 50


@dataclass(frozen=True, slots=True)
class Candidates:
    """Stored ids of what may be a near-copy, as searches found them that saw the namespace at this version or later."""

    version: int
    stored_ids: Sequence[str] = ()
    filters: Sequence[Filter] = ()
    """What was searched for: whatever else may be a near-copy, one of them lets through."""


class WrittenMeanwhile(Exception):
    """Others have written too much since the searches to be read while they wait."""


class SavedBefore:
    """Reads within the transaction of a save, which holds its namespace: what it finds is so until the end."""

    def __init__(self, connection: AsyncConnection, key: NamespaceKey, now: datetime) -> None:
        self._connection = connection
        self._key = key
        self._table = records[key.kind]
        self._now = now
        self._private_ids = secrets.token_bytes()
        self._names = [Column.ID, "identity", "created_us", "expires_us", metadata_column(key.kind)]
        if key.kind is MemoryKind.UNIFIED:
            self._names += [Column.PRIVATE, "owner"]
        self._stored: dict[str, StoredRecord | None] = {}
        self.rows: set[str] = set()
        """Primary keys of the rows that were found, whether they live or have expired."""
        self.absent: set[str] = set()
        """Primary keys that were looked for and are those of no rows."""

    async def plan(self, new: Sequence[Record], identities: Sequence[str], near: NearCopies | None = None) -> SavePlan:
        """Return what to write for new records, given the identity of each."""
        while ids := ids_to_read(new, identities, self._stored, self._private_ids):
            await self._read(ids)
        looked_for = {identity for record, identity in zip(new, identities, strict=True) if not record.id}
        same = await self._same(list(looked_for))
        planned = new, identities, self._stored, same, self._now, self._private_ids, near
        # Vectors that are compared take their time.
        return await asyncio.to_thread(plan_save, *planned) if near else plan_save(*planned)

    async def near_copies(self, candidates: Candidates, similarity: float, *, most: int | None) -> NearCopies:
        """Return what new records may be near-copies of: candidates as they are now, and what was written since.

        Raises:
            WrittenMeanwhile: more than `most` were written since.
        """
        near, table = NearCopies(similarity), self._table
        clauses = [owned_among(table, self._key, part) for part in parts(candidates.stored_ids, IDS_IN_STATEMENT)]
        since = and_(
            owned(table, self._key), table.c.written_version > candidates.version, *self._among(candidates.filters)
        )
        if most is not None:
            some = select(table.c[Column.ID]).where(since).limit(most + 1).subquery()
            if (await self._connection.scalar(select(func.count()).select_from(some)) or 0) > most:
                raise WrittenMeanwhile
        for clause in (*clauses, since):
            statement = select(*row_columns(table, embeddings=True)).where(
                clause, alive(table, microseconds(self._now))
            )
            async for chunk in chunks(self._connection, statement, TEXTS_IN_CHUNK):
                found = parse_rows(self._key, [named(row) for row in chunk])
                self.rows.update(found)
                near.add(found.values())
        return near

    def _among(self, filters: Sequence[Filter]) -> list[ColumnElement[bool]]:
        """Return the clause that holds for what one of some filters asks for, unless they are too many to be named."""
        if not 0 < len(filters) <= _FILTERS_IN_STATEMENT:
            return []
        now_us, dialect = microseconds(self._now), self._connection.dialect.name
        return [or_(*(and_(*living(self._key, chosen, now_us, dialect)) for chosen in filters))]

    async def _read(self, ids: Sequence[str]) -> None:
        by_stored_id = {self._key.stored_id(record_id): record_id for record_id in ids}
        self._stored |= dict.fromkeys(ids)
        table = self._table
        for part in parts(list(by_stored_id), IDS_IN_STATEMENT):
            clause = looked_up(table, self._key, part, self._connection.dialect.name)
            statement = select(*(table.c[name] for name in self._names)).where(clause)
            for row in map(named, await self._connection.execute(statement)):
                self.rows.add(row[Column.ID])
                # What has expired is not continued: a record saved under its id is a new one.
                if row["expires_us"] is None or row["expires_us"] > microseconds(self._now):
                    self._stored[by_stored_id[row[Column.ID]]] = StoredRecord(
                        row["identity"],
                        self._moment(row["created_us"]),
                        row["owner"] if row.get(Column.PRIVATE) else None,
                        row_revision(self._key.kind, row),
                        row_ties(self._key.kind, row).savers,
                    )
        self.absent.update(by_stored_id.keys() - self.rows)

    def _moment(self, us: int) -> datetime:
        """Return when a row says its record was made; now, if it says what no calendar has."""
        try:
            return moment_of(us)
        except OverflowError:
            return self._now

    async def _same(self, identities: Sequence[str]) -> dict[str, Record]:
        """Return the records that have these identities, the oldest of several."""
        table = self._table
        found: dict[str, Record] = {}
        for part in parts(identities, IDS_IN_STATEMENT):
            statement = (
                select(*row_columns(table, embeddings=False))
                .where(owned(table, self._key), table.c.identity.in_(part), alive(table, microseconds(self._now)))
                .order_by(table.c.created_us, table.c[Column.ID])
            )
            rows = [named(row) for row in await self._connection.execute(statement)]
            self.rows.update(row[Column.ID] for row in rows)
            identity_by_id = {row[Column.ID]: row["identity"] for row in rows}
            for stored_id, record in parse_rows(self._key, rows).items():
                found.setdefault(identity_by_id[stored_id], record)
        return found
