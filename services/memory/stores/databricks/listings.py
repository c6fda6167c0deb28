"""Lists of an index's records: pages newest first, and whole namespaces in the order of their keys."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Final

from services.memory.domain.filters import Filter
from services.memory.domain.listings import ListPosition, RecordPage
from services.memory.domain.moments import UNKNOWN, microseconds
from services.memory.domain.records import Record
from services.memory.rows.columns import Column, DatabricksIndexSchemas
from services.memory.rows.reader import RecordReader
from services.memory.rows.row import Row, created_of
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.listed_positions import ListedPositions, Position, page_after
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.row_checks import passes

_KEYS_AT_ONCE = 1000
TIMES: Final = (Column.CREATED_AT, Column.TIMESTAMP)
"""The columns that say when a record was made, of which each kind has one."""


@dataclass(frozen=True, slots=True)
class IndexListings:
    """The lists of one location."""

    repository: DatabricksVectorIndexRepository
    listed: ListedPositions

    async def page(
        self,
        index: str,
        owner: Owner,
        chosen: Filter,
        limit: int,
        after: ListPosition | None,
        now: datetime,
        *,
        embeddings: bool,
    ) -> RecordPage:
        """Return a page as `MemoryStore.page` does."""
        if limit > _KEYS_AT_ONCE and after is None and not embeddings:
            return await self._whole_page(index, owner, chosen, limit, now)
        listing = (self.repository.at(index), owner, repr(chosen))
        positions = None if after is None else self.listed.get(listing)
        whole = False
        if positions is None:
            positions, whole = await self._positions(index, owner, chosen, after, limit, now)
        on_page, more = page_after(positions, after, limit)
        if more and whole:
            self.listed.put(listing, positions)
        keys = [stored_id for _, stored_id in on_page]
        found = await self.repository.fetch(index, owner, keys, embeddings=embeddings) if keys else {}
        reader = RecordReader(owner.kind, "databricks")
        # What was removed or changed since it was listed is left out.
        rows = [found[stored_id] for stored_id in keys if stored_id in found]
        records = [reader.read(row) for row in rows if passes(owner.kind, chosen, row, now)]
        return RecordPage(
            [record for record in records if record is not None],
            more=more,
            unreadable=reader.unreadable,
            last=ListPosition(*on_page[-1]) if more else None,
        )

    async def _whole_page(self, index: str, owner: Owner, chosen: Filter, limit: int, now: datetime) -> RecordPage:
        """Return a first page so large that its rows are read at once, not after their positions."""
        newest: list[tuple[Position, Row]] = []
        columns = DatabricksIndexSchemas.get_search_columns(owner.kind)
        async for rows in self.repository.rows(index, owner, chosen, now, columns):
            newest.extend((_position(row), row) for row in rows)
            newest.sort(key=itemgetter(0), reverse=True)
            del newest[limit + 1 :]
        reader = RecordReader(owner.kind, "databricks")
        records = [reader.read(row) for _, row in newest[:limit]]
        more = len(newest) > limit
        return RecordPage(
            [record for record in records if record is not None],
            more=more,
            unreadable=reader.unreadable,
            last=ListPosition(*newest[limit - 1][0]) if more else None,
        )

    async def _positions(
        self, index: str, owner: Owner, chosen: Filter, after: ListPosition | None, limit: int, now: datetime
    ) -> tuple[Sequence[Position], bool]:
        """Return the positions of what matches, oldest first, and whether they are all.

        Of very many they are only those of the next page, and one that shows that there are more.
        """
        found: list[Position] = []
        whole, most = True, self.listed.most
        async for rows in self.repository.rows(index, owner, chosen, now, TIMES):
            found.extend(map(_position, rows))
            if len(found) > most:
                whole, most = False, limit + 1
                found = sorted(entry for entry in found if after is None or entry < (after.created, after.stored_id))
                del found[:-most]
        found.sort()
        return found, whole

    async def read_through(
        self, index: str, owner: Owner, chosen: Filter, after: str, now: datetime, *, embeddings: bool
    ) -> AsyncIterator[Sequence[tuple[str, Record]]]:
        """Yield what matches as `MemoryStore.read_through` does, in the order of the primary keys.

        Of more than 10,000 rows the whole index is read, once.
        """
        reader = RecordReader(owner.kind, "databricks")
        async for rows in self._rows_by_key(index, owner, chosen, after, now, embeddings=embeddings):
            placed = [
                (row[Column.ID], reader.read(row if embeddings else {**row, Column.EMBEDDING: None}))
                for row in rows
                if passes(owner.kind, chosen, row, now)
            ]
            yield [(stored_id, record) for stored_id, record in placed if record is not None]

    async def _rows_by_key(
        self, index: str, owner: Owner, chosen: Filter, after: str, now: datetime, *, embeddings: bool
    ) -> AsyncIterator[Sequence[Row]]:
        keys, complete = await self.repository.keys(index, owner, chosen, now)
        if complete:
            left = sorted(stored_id for stored_id in keys if stored_id > after)
            for start in range(0, len(left), _KEYS_AT_ONCE):
                some = left[start : start + _KEYS_AT_ONCE]
                found = await self.repository.fetch(index, owner, some, embeddings=embeddings)
                yield [found[stored_id] for stored_id in some if stored_id in found]
            return
        async for rows, _ in self.repository.scan(index, owner, after):
            yield rows


def _position(row: Row) -> Position:
    """Return the sort key of a row in a list; what does not say when it was made comes last."""
    return microseconds(created_of(row) or UNKNOWN), row[Column.ID]
