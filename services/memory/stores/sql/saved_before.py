"""What the default store holds of the records of a save."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.memory.domain.moments import microseconds, moment_of
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.near_copies import NearCopies
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.saves import SavePlan, StoredRecord, ids_to_read, plan_save
from services.memory.rows import row_revision, row_ties
from services.memory.schemas import Column, metadata_column
from services.memory.stores.sql.rows import parse_rows
from services.memory.stores.sql.statements import (
    IDS_IN_STATEMENT,
    TEXTS_IN_CHUNK,
    alive,
    chunks,
    named,
    owned,
    owned_among,
    parts,
    row_columns,
)
from services.memory.tables import records


@dataclass(frozen=True, slots=True)
class Candidates:
    """Stored ids of what may be a near-copy, as searches found them that saw the namespace at this version or later."""

    version: int
    stored_ids: Sequence[str] = ()


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
        return plan_save(new, identities, self._stored, same, self._now, self._private_ids, near)

    async def near_copies(self, candidates: Candidates, similarity: float) -> NearCopies:
        """Return what new records may be near-copies of: candidates as they are now, and what was written since."""
        near, table = NearCopies(similarity), self._table
        clauses = [owned_among(table, self._key, part) for part in parts(candidates.stored_ids, IDS_IN_STATEMENT)]
        clauses.append(and_(owned(table, self._key), table.c.written_version > candidates.version))
        for clause in clauses:
            statement = select(*row_columns(table, embeddings=True)).where(
                clause, alive(table, microseconds(self._now))
            )
            async for chunk in chunks(self._connection, statement, TEXTS_IN_CHUNK):
                found = parse_rows(self._key, [named(row) for row in chunk])
                self.rows.update(found)
                near.add(found.values())
        return near

    async def _read(self, ids: Sequence[str]) -> None:
        by_stored_id = {self._key.stored_id(record_id): record_id for record_id in ids}
        self._stored |= dict.fromkeys(ids)
        table = self._table
        for part in parts(list(by_stored_id), IDS_IN_STATEMENT):
            statement = select(*(table.c[name] for name in self._names)).where(owned_among(table, self._key, part))
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
