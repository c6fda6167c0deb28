"""Former versions of the default store's records, written in the transaction of the change that ends them."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, case, delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.memory.domain.filters import Filter
from services.memory.domain.history import Keeping, RecordVersion, VersionEnd, same_contents
from services.memory.domain.listings import BYTES_AT_ONCE
from services.memory.domain.metadata import canonical_json
from services.memory.domain.moments import microseconds, moment_of
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record
from services.memory.rows.columns import Column, metadata_column
from services.memory.rows.reader import RecordReader
from services.memory.rows.row import Row, row_ties
from services.memory.stores.sql.comparisons import holds_text
from services.memory.stores.sql.history_pruning import delete_portion
from services.memory.stores.sql.rows import parse_rows, read_records
from services.memory.stores.sql.statements import (
    IDS_IN_STATEMENT,
    ROWS_IN_CHUNK,
    TEXTS_IN_CHUNK,
    alive,
    named,
    owned,
    owned_among,
    parts,
    visible,
)
from services.memory.tables import records, versions


class VersionsOf:
    """The versions of one namespace within a transaction; a change of them holds the namespace."""

    def __init__(self, connection: AsyncConnection, key: NamespaceKey, dialect: str) -> None:
        """The kind is one of `versions`."""
        self._connection = connection
        self._key = key
        self._dialect = dialect
        self._table = versions[key.kind]
        self._records = records[key.kind]

    async def keep_replaced(
        self, written: Mapping[str, Record], keeping: Keeping, now: datetime
    ) -> Mapping[str, int | None]:
        """Keep the records that are about to be replaced by others, and return since when what is written is so.

        `written` has what is written by stored id, all of which are there; what has expired is not kept.
        """
        living = [alive(self._records, microseconds(now))]
        same: list[str] = []
        changed: list[str] = []
        left = list(written)
        while left:
            found, looked_up = await read_records(self._connection, self._key, left, embeddings=False, clauses=living)
            for stored_id, former in found.items():
                if same_contents(former, written[stored_id]):
                    same.append(stored_id)
                else:
                    changed.append(stored_id)
            left = left[looked_up:]
        # A save that waited for another one knows an earlier time: it begins when what it replaces ends.
        since: dict[str, int | None] = {**await self._keep(changed, living, VersionEnd.REPLACED, keeping, now)}
        for part in parts(same, IDS_IN_STATEMENT):
            statement = select(self._records.c[Column.ID], self._records.c.saved_us)
            rows = await self._connection.execute(statement.where(owned_among(self._records, self._key, part)))
            since.update((row[0], row[1]) for row in rows)
        return since

    async def keep_deleted(
        self, ids: Sequence[str], clauses: Sequence[ColumnElement[bool]], keeping: Keeping, now: datetime
    ) -> None:
        """Keep the records with these stored ids that meet the clauses, which are about to be deleted."""
        await self._keep(ids, clauses, VersionEnd.DELETED, keeping, now)

    async def _keep(
        self,
        ids: Sequence[str],
        clauses: Sequence[ColumnElement[bool]],
        end: VersionEnd,
        keeping: Keeping,
        now: datetime,
    ) -> Mapping[str, int]:
        """Keep records, and return when the versions ended by stored id."""
        source, own = self._records, {"place", "begun_us", "ended_us", "ended_by", "changed_by"}
        copied = [column.name for column in self._table.c if column.name not in own]
        now_us, ends = literal(microseconds(now), BigInteger()), dict[str, int]()
        # A time of creation is what a caller said.
        begun = func.coalesce(
            source.c.saved_us, case((source.c.created_us > now_us, now_us), else_=source.c.created_us)
        )
        # Another machine's clock may be ahead: nothing ends before it has begun.
        ended = case((begun > now_us, begun), else_=now_us)
        for part in parts(ids, IDS_IN_STATEMENT):
            rows = select(
                *(source.c[name] for name in copied), begun, ended, literal(end.value), literal(keeping.by)
            ).where(owned_among(source, self._key, part), *clauses)
            names = [*copied, "begun_us", "ended_us", "ended_by", "changed_by"]
            statement = insert(self._table).from_select(names, rows)
            kept = self._table.c[Column.ID], self._table.c.ended_us
            ends.update((row[0], row[1]) for row in await self._connection.execute(statement.returning(*kept)))
            await self._trim(part, keeping.most)
        return ends

    async def _trim(self, ids: Sequence[str], most: int) -> None:
        """Remove all but the newest versions of records."""
        table = self._table
        newest = func.row_number().over(partition_by=table.c[Column.ID], order_by=table.c.place.desc())
        numbered = select(table.c.place, newest.label("number")).where(*self._of(ids)).subquery()
        old = select(numbered.c.place).where(numbered.c.number > most)
        await self._connection.execute(delete(table).where(table.c.place.in_(old)))

    async def purge(self, ids: Sequence[str], chosen: Filter) -> None:
        """Remove all versions of records that a filter's caller sees."""
        for part in parts(ids, IDS_IN_STATEMENT):
            seen = self._visible(chosen)
            await self._connection.execute(delete(self._table).where(*self._of(part), *seen))

    async def page(
        self, stored_id: str, chosen: Filter, since: datetime, before: int | None, limit: int
    ) -> tuple[Sequence[RecordVersion], bool]:
        """Return versions of a record that a filter's caller sees, newest first, and whether there are more.

        Only those that ended after `since` and have a place below `before`; fewer than `limit` where they are long.
        """
        table = self._table
        clauses = [*self._of([stored_id]), *self._visible(chosen), table.c.ended_us > microseconds(since)]
        found: list[RecordVersion] = []
        size = 0
        while len(found) < limit and size < BYTES_AT_ONCE:
            wanted = min(limit - len(found), _VERSIONS_AT_ONCE)
            statement = select(table).where(*clauses).order_by(table.c.place.desc()).limit(wanted + 1)
            if before is not None:
                statement = statement.where(table.c.place < before)
            rows = [named(row) for row in await self._connection.execute(statement)]
            page = rows[:wanted]
            size += sum(len(value) for row in page for value in row.values() if isinstance(value, str))
            found += self._read(page)
            if len(rows) <= wanted:
                return found, False
            before = page[-1]["place"]
        return found, True

    async def at(self, stored_id: str, chosen: Filter, since: datetime, moment: datetime) -> RecordVersion | None:
        """Return the version that was the record at a moment, if a filter's caller sees it."""
        table, at_us = self._table, microseconds(moment)
        statement = select(table).where(
            *self._of([stored_id]),
            *self._visible(chosen),
            table.c.ended_us > microseconds(since),
            table.c.begun_us <= at_us,
            table.c.ended_us > at_us,
        )
        rows = await self._connection.execute(statement.order_by(table.c.place.desc()).limit(1))
        return next(iter(self._read([named(row) for row in rows])), None)

    async def tied(self, subject: str, after: int) -> tuple[Sequence[int], int | None]:
        """Return those of a portion of the versions after a place that are tied to a subject.

        Also where the portion ends, None for the last one.
        """
        table, kind = self._table, self._key.kind
        metadata = table.c[metadata_column(kind)]
        # An owner is written as "subject:" and the subject.
        named_in = holds_text(metadata, canonical_json(subject)[1:], self._dialect)
        columns: list[ColumnElement[Any]] = [table.c.place, metadata]
        statement = select(*columns).where(owned(table, self._key), named_in, table.c.place > after)
        read = await self._connection.execute(statement.order_by(table.c.place).limit(TEXTS_IN_CHUNK))
        rows = [named(row) for row in read]

        def tied() -> list[int]:
            return [row["place"] for row in rows if subject in row_ties(kind, row).subjects]

        return await asyncio.to_thread(tied), rows[-1]["place"] if len(rows) == TEXTS_IN_CHUNK else None

    async def remove(self, places: Sequence[int]) -> int:
        """Remove the versions with some places, and return how many there were."""
        table = self._table
        removed: Any = await self._connection.execute(
            delete(table).where(owned(table, self._key), table.c.place.in_(places))
        )
        return int(removed.rowcount)

    async def last_changed_by(self, subject: str, after: int) -> int | None:
        """Return where a portion ends of the versions after a place that a subject has ended; None: there are none."""
        table = self._table
        ended = owned(table, self._key), table.c.changed_by == subject, table.c.place > after
        some = select(table.c.place).where(*ended).order_by(table.c.place).limit(ROWS_IN_CHUNK).subquery()
        last: int | None = await self._connection.scalar(select(func.max(some.c.place)))
        return last

    async def take_name_out(self, subject: str, last: int) -> None:
        """Forget of the versions up to a place that a subject has ended them."""
        table = self._table
        ended = owned(table, self._key), table.c.changed_by == subject, table.c.place <= last
        await self._connection.execute(update(table).where(*ended).values(changed_by=""))

    async def last_place(self) -> int:
        """Return the place of the version that was kept last; 0 when there is none."""
        place = await self._connection.scalar(
            select(func.max(self._table.c.place)).where(owned(self._table, self._key))
        )
        return int(place or 0)

    async def clear(self, last: int) -> int:
        """Remove a portion of the versions up to a place, and return how many: fewer than a portion at the end."""
        table = self._table
        return await delete_portion(self._connection, table, owned(table, self._key), table.c.place <= last)

    async def remove_all(self) -> None:
        """Remove all versions; few are left where `clear` has been called before."""
        await self._connection.execute(delete(self._table).where(owned(self._table, self._key)))

    def _of(self, ids: Sequence[str]) -> list[ColumnElement[bool]]:
        return [owned(self._table, self._key), self._table.c[Column.ID].in_(ids)]

    def _visible(self, chosen: Filter) -> list[ColumnElement[bool]]:
        return list(visible(self._table, chosen)) if self._key.kind is MemoryKind.UNIFIED else []

    def _read(self, rows: Sequence[Row]) -> list[RecordVersion]:
        found: list[RecordVersion] = []
        reader = RecordReader(self._key.kind, "default")
        for row in rows:
            try:
                begun_at, ended_at, end = (
                    moment_of(row["begun_us"]),
                    moment_of(row["ended_us"]),
                    VersionEnd(row["ended_by"]),
                )
            except (OverflowError, ValueError):
                reader.leave_out(1, "what ended it, or when, cannot be read")
                continue
            # One at a time: several rows have the same stored id.
            for record in parse_rows(self._key, [row]).values():
                found.append(RecordVersion(record, begun_at, ended_at, end, row["changed_by"], row["place"]))
        return found


_VERSIONS_AT_ONCE = 10
"""Versions read before it is known how long they are: 1 MiB each at most."""
