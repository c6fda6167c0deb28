"""Rows in indexes of Databricks Vector Search: written, found, counted and removed.

Rows are built and read through `rows` alone; every query carries its owner, and every row is checked for it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from services.common.errors import PermissionDenied
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.listings import Tally
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.scores import ScoreMeasure
from services.memory.rows.building import build_row
from services.memory.rows.columns import Column, DatabricksIndexSchemas, metadata_column
from services.memory.rows.row import Row, record_id
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.endpoint_types import EndpointTypes, Location
from services.memory.stores.databricks.filter_language import (
    MAX_VALUES,
    Owner,
    handed_over,
    is_safe,
    keys_clause,
    owner_clauses,
)
from services.memory.stores.databricks.probes import IndexProbes
from services.memory.stores.databricks.queries import MAX_RESULTS, IndexQueries
from services.memory.stores.databricks.recent_writes import IndexPlace, RecentWrites
from services.memory.stores.databricks.resources import WorkspaceResources
from services.memory.stores.databricks.row_checks import decision_columns, is_owned, passes
from services.memory.stores.databricks.searches import IndexSearches
from services.memory.stores.databricks.wire import wire_row
from services.memory.stores.databricks.write_failures import partial_failure, read_only

_WHOSE = Filter(owner="anybody")
"""Decided by all that says whose a row is."""


class DatabricksVectorIndexRepository:
    """The indexes of one location, called with the credential of the current caller."""

    def __init__(
        self,
        client: VectorSearchClient,
        location: Location,
        endpoint_types: EndpointTypes,
        recent_writes: RecentWrites,
        scores: ScoreMeasure | None = None,
    ) -> None:
        """`scores` is how the workspace computes them; None: as documents say."""
        self._client = client
        self._location = location
        self.resources = WorkspaceResources(client, location, endpoint_types)
        self.queries = IndexQueries(client, location, endpoint_types, self.resources)
        self.searches = IndexSearches(self.queries, scores or ScoreMeasure())
        self.probes = IndexProbes(self.queries)
        self._recent_writes = recent_writes

    @property
    def delete_batch(self) -> int:
        """How many rows one request removes."""
        return self._client.limits.delete_keys

    def at(self, index: str) -> IndexPlace:
        """Return what tells an index from those of the same name in other workspaces."""
        return self._location.workspace_url, index

    def written_lately(self, index: str, key: str) -> bool:
        """Return whether this process wrote or removed a row lately: what is read of it may be what it was before."""
        return self._recent_writes.written(self.at(index), key)

    def removed_lately(self, index: str, key: str) -> bool:
        """Return whether this process removed a row lately and has not written it since."""
        return self._recent_writes.removed(self.at(index), key)

    async def check_credential(self) -> None:
        """Find the caller's credential for the workspace.

        Raises:
            CoxswainError: there is none.
        """
        await self._client.check_credential(self._location.workspace_url)

    async def upsert(self, index: str, key: NamespaceKey, records: Sequence[Record], embedding_model: str) -> None:
        """Write records whose embeddings and times are set, replacing those of the same id.

        Raises:
            FailedPrecondition: the index is read only.
            Aborted: some were not written; the metadata name them by the client's ids.
        """
        rows = await asyncio.to_thread(lambda: [build_row(key, record, embedding_model) for record in records])
        names = {row[Column.ID]: record.id for row, record in zip(rows, records, strict=True)}
        await self.write_rows(index, rows, names)

    async def write_rows(self, index: str, rows: Sequence[Row], names: Mapping[str, str] | None = None) -> None:
        """Write whole rows with their vectors; `names` gives the ids that failures show.

        Raises:
            FailedPrecondition: the index is read only.
            Aborted: some were not written.
        """
        await self.check_writable(index)
        wired = await asyncio.to_thread(lambda: [wire_row(row) for row in rows])
        self._recent_writes.note(self.at(index), [row.key for row in wired], removed=False)
        failed = await self._client.upsert(self._location.workspace_url, index, wired)
        if failed:
            raise partial_failure("written", [(names or {}).get(key, key) for key in failed])

    async def check_writable(self, index: str) -> None:
        """Refuse to write to an index that follows a table.

        Raises:
            FailedPrecondition: it does.
        """
        try:
            shape = await self.queries.shape(index)
        except PermissionDenied:
            # Who may not read may be allowed to write.
            return
        if shape.source_table:
            raise read_only(index, shape.source_table)

    async def fetch(
        self, index: str, owner: Owner, keys: Sequence[str], *, embeddings: bool, columns: Sequence[str] = ()
    ) -> dict[str, Row]:
        """Return the owner's rows of these primary keys: all their columns (the vector on demand), or some."""
        schema = DatabricksIndexSchemas.get_schema(owner.kind)
        columns = columns or [name for name in schema if embeddings or name != Column.EMBEDDING]
        quotable, others = list(keys), set[str]()
        if not all(is_safe(key) for key in keys) and await self.queries.takes_text() is not False:
            # Keys of rows that something else has written, which the string language may not be able to hold.
            quotable, others = [key for key in keys if is_safe(key)], {key for key in keys if not is_safe(key)}
        found: dict[str, Row] = {}
        for start in range(0, len(quotable), MAX_VALUES):
            part = quotable[start : start + MAX_VALUES]
            clauses = [*owner_clauses(owner), keys_clause(part)]
            async for row in self.queries.rows(index, clauses, None, len(part), columns=columns):
                if is_owned(owner, row):
                    found[row[Column.ID]] = {name: row[name] for name in columns}
        if others:
            async for row in self.queries.rows(index, owner_clauses(owner), None, MAX_RESULTS, columns=columns):
                if row[Column.ID] in others and is_owned(owner, row):
                    found[row[Column.ID]] = {name: row[name] for name in columns}
        return found

    async def find(
        self,
        index: str,
        key: NamespaceKey,
        ids: Iterable[str],
        *,
        embeddings: bool = False,
        deciding: Filter | None = None,
    ) -> dict[str, list[Row]]:
        """Return the rows of a namespace's records by their ids, whoever has written them, in the order of the ids.

        Our own row comes before one that has the id as its primary key. Rows that cannot be read are found by that.
        With `deciding` they have the columns only that decide whether this filter is met.
        """
        wanted = dict.fromkeys(ids)
        candidates = list(dict.fromkeys([*map(key.stored_id, wanted), *wanted]))
        owner = Owner(key.kind, key.group_id, key.memory_id)
        columns = [] if deciding is None else [*decision_columns(owner, deciding), metadata_column(key.kind)]
        by_key = await self.fetch(index, owner, candidates, embeddings=embeddings, columns=list(dict.fromkeys(columns)))
        found: dict[str, list[Row]] = {}
        for client_id in wanted:
            rows = [by_key.get(key.stored_id(client_id)), by_key.get(client_id)]
            own = [row for row in rows if row is not None and record_id(key.kind, row) == client_id]
            if own:
                found[client_id] = own
        return found

    async def place(self, index: str, key: NamespaceKey, records: Iterable[Record]) -> Mapping[str, Row]:
        """Say where records are to be stored, and return the rows there that they will replace, by their ids.

        A row that something else has written under a record's id is replaced where it is. The rows that are returned
        have what says whose they are.

        Raises:
            FailedPrecondition: the index is read only.
        """
        await self.check_writable(index)
        by_id = {record.id: record for record in records}
        existing = await self.find(index, key, by_id, deciding=_WHOSE)
        replaced = {client_id: rows[0] for client_id, rows in existing.items()}
        for client_id, record in by_id.items():
            row = replaced.get(client_id)
            record.stored_id = key.stored_id(client_id) if row is None else row[Column.ID]
        return replaced

    async def count_documents(self, index: str, owner: Owner, chosen: Filter, now: datetime, most: int = 0) -> Tally:
        """Count the owner's rows that match: exactly up to `most` rows (0: 10,000), beyond that at least so many."""
        columns = decision_columns(owner, chosen)
        received, count, most = 0, 0, most or MAX_RESULTS
        async for row in self.queries.rows(index, handed_over(owner, chosen).clauses, None, most, columns=columns):
            received += 1
            count += is_owned(owner, row) and passes(owner.kind, chosen, row, now)
        return Tally(count, at_least=received >= most)

    async def rows(
        self, index: str, owner: Owner, chosen: Filter, now: datetime, columns: Iterable[str]
    ) -> AsyncIterator[list[Row]]:
        """Yield these columns of all of the owner's rows that match, page by page and in no order.

        Up to 10,000 rows are returned by a query. For more the whole index is read.
        """
        page: list[Row] = []
        wanted = {*decision_columns(owner, chosen), *columns}
        names = [name for name in DatabricksIndexSchemas.get_schema(owner.kind) if name in wanted]
        clauses = handed_over(owner, chosen).clauses
        async for row in self.queries.rows(index, clauses, None, MAX_RESULTS, columns=names):
            page.append(row)
        if len(page) < MAX_RESULTS:
            yield [row for row in page if is_owned(owner, row) and passes(owner.kind, chosen, row, now)]
            return
        del page
        async for scanned, _ in self.scan(index, owner):
            yield [{name: row.get(name) for name in names} for row in scanned if passes(owner.kind, chosen, row, now)]

    async def scan(self, index: str, owner: Owner, after: str = "") -> AsyncIterator[tuple[list[Row], str]]:
        """Yield all of the owner's rows whose keys follow `after`, whole and with their vectors, in the order of keys.

        One pass over the index, those of other owners passed over. With each page comes the key to continue after.
        """
        async for rows, last in self.scan_all(index, owner.kind, after):
            yield [row for row in rows if owner.owns(row)], last

    async def scan_all(
        self, index: str, kind: MemoryKind, after: str = ""
    ) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        """Yield the rows of every owner as `scan` does: to look at whose they are, never to be shown."""
        schema = DatabricksIndexSchemas.get_schema(kind)
        async for rows, last in self._client.scan(self._location.workspace_url, index, after):
            yield [{name: row.get(name) for name in schema} for row in rows], last

    async def delete_records(self, index: str, keys: Sequence[str], names: Mapping[str, str] | None = None) -> int:
        """Remove rows by primary key and return how many removals were accepted; unknown keys count too.

        Raises:
            FailedPrecondition: the index is read only.
            Aborted: some were not removed; `names` gives the ids that the metadata shows.
        """
        await self.check_writable(index)
        self._recent_writes.note(self.at(index), keys, removed=True)
        accepted, failed = await self._client.delete(self._location.workspace_url, index, keys)
        if failed:
            raise partial_failure("removed", [(names or {}).get(key, key) for key in failed])
        return accepted

    async def keys(self, index: str, owner: Owner, chosen: Filter, now: datetime) -> tuple[Sequence[str], bool]:
        """Return the primary keys of the owner's rows that match, and whether these are all: 10,000 are returned."""
        columns = decision_columns(owner, chosen)
        received, found = 0, list[str]()
        clauses = handed_over(owner, chosen).clauses
        async for row in self.queries.rows(index, clauses, None, MAX_RESULTS, columns=columns):
            received += 1
            if is_owned(owner, row) and passes(owner.kind, chosen, row, now):
                found.append(row[Column.ID])
        return found, received < MAX_RESULTS

    async def remove_expired(self, index: str, owner: Owner, now: datetime) -> int:
        """Remove what of the owner's rows has expired, as far as one query returns it, and return how many.

        What was written lately stays: it may be read as it was before.
        """
        expired: list[str] = []
        columns = decision_columns(owner, EVERYTHING)
        async for row in self.queries.rows(index, owner_clauses(owner), None, MAX_RESULTS, columns=columns):
            if is_owned(owner, row) and not passes(owner.kind, EVERYTHING, row, now):
                expired.append(row[Column.ID])
        expired = [key for key in expired if not self.written_lately(index, key)]
        return await self.delete_records(index, expired) if expired else 0
