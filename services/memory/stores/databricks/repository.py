"""Rows in indexes of Databricks Vector Search: written, found, counted and removed.

Rows are built and read through `rows` alone; every query carries its owner, and every row is checked for it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import structlog
from prometheus_client import Counter

from services.common.errors import Aborted, FailedPrecondition, PermissionDenied
from services.memory import filters
from services.memory.domain.filters import EVERYTHING, Comparison, Filter
from services.memory.domain.listings import Tally
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.scores import ScoreFormula
from services.memory.domain.vectors import Vector
from services.memory.record_reader import RecordReader
from services.memory.row_values import read_float, read_integer, read_text, read_vector
from services.memory.rows import Row, build_row, created_of, record_id, row_expires_at, typed_row
from services.memory.schemas import Column, DatabricksIndexSchemas, metadata_column
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.endpoint_types import EndpointTypes, Location
from services.memory.stores.databricks.filter_language import (
    MAX_VALUES,
    Clause,
    Owner,
    handed_over,
    is_safe,
    keys_clause,
    owner_clauses,
)
from services.memory.stores.databricks.queries import IndexQueries
from services.memory.stores.databricks.recent_writes import RecentWrites
from services.memory.stores.databricks.resources import WorkspaceResources
from services.memory.stores.databricks.survey import Survey
from services.memory.stores.databricks.upstream_errors import bad_answer
from services.memory.stores.databricks.wire import SCORE, wire_row

logger = structlog.get_logger(__name__)
_FOREIGN_ROWS = Counter(
    "coxswain_memory_foreign_rows_total", "Rows of other owners that a vector store returned, and that were dropped"
)

MAX_RESULTS = 10_000
"""What one query can return."""

MAX_WORD_RESULTS = 200
"""What one query for words can return."""
_SPARE_ROWS = 4
"""Rows requested beyond what is looked for where few are sorted out."""
_MOST_NAMED_BYTES = 1200
"""Failures travel in gRPC's trailers, of which clients take 8 KiB."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that was found, the memory id under which it is stored, and its cosine similarity."""

    record: Record
    memory_id: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Hits:
    """What a search found, best first."""

    hits: Sequence[Hit]
    truncated: bool
    """Whether there are more of the owner's rows than could be read: others may match too."""
    unreadable: int = 0
    """Rows among the results that are no records and were left out."""


class DatabricksVectorIndexRepository:
    """The indexes of one location, called with the credential of the current caller."""

    def __init__(
        self,
        client: VectorSearchClient,
        location: Location,
        endpoint_types: EndpointTypes,
        recent_writes: RecentWrites,
        formula: ScoreFormula = ScoreFormula.SQUARED_DISTANCE,
    ) -> None:
        """`formula` is how the workspace computes scores."""
        self._client = client
        self._location = location
        self.resources = WorkspaceResources(client, location, endpoint_types)
        self._queries = IndexQueries(client, location, endpoint_types, self.resources)
        self.recent_writes = recent_writes
        self._formula = formula

    @property
    def delete_batch(self) -> int:
        """How many rows one request removes."""
        return self._client.limits.delete_keys

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
        self.recent_writes.note([row.key for row in wired], removed=False)
        failed = await self._client.upsert(self._location.workspace_url, index, wired)
        if failed:
            raise partial_failure("written", [(names or {}).get(key, key) for key in failed])

    async def check_writable(self, index: str) -> None:
        """Refuse to write to an index that follows a table.

        Raises:
            FailedPrecondition: it does.
        """
        try:
            shape = await self._queries.shape(index)
        except PermissionDenied:
            # Who may not read may be allowed to write.
            return
        if shape.source_table:
            raise read_only(index, shape.source_table)

    async def similarity_search(
        self,
        index: str,
        owner: Owner,
        vector: Vector,
        chosen: Filter,
        limit: int,
        now: datetime,
        *,
        embeddings: bool,
        min_score: float | None = None,
    ) -> Hits:
        """Find the owner's records nearest to a vector that match and are as similar as `min_score`, at most `limit`.

        What the store cannot decide of the filter is decided here, on as many of the nearest rows as it takes, up to
        the 10,000 that a query can return.
        """
        handed = handed_over(owner, chosen)
        columns = DatabricksIndexSchemas.get_search_columns(owner.kind)
        if embeddings:
            columns.append(Column.EMBEDDING)
        spare = limit + _SPARE_ROWS if handed.but_private else 100 + 4 * limit
        requested = limit if handed.whole else min(MAX_RESULTS, spare)
        while True:
            hits: list[Hit] = []
            reader = RecordReader(owner.kind, "databricks")
            received = 0
            async for row in self._queries.rows(index, handed.clauses, vector, requested, columns=columns):
                received += 1
                similarity = self._cosine(row.get(SCORE))
                if min_score is not None and similarity < min_score:
                    return Hits(hits, truncated=False, unreadable=reader.unreadable)
                if not self._is_owned(owner, row) or not passes(owner.kind, chosen, row, now):
                    continue
                record = reader.read(row)
                if record is not None:
                    hits.append(Hit(record, read_text(row.get(Column.CREW_ID)), similarity))
                if len(hits) == limit:
                    return Hits(hits, truncated=False, unreadable=reader.unreadable)
            if received < requested or requested == MAX_RESULTS:
                return Hits(hits, truncated=received >= MAX_RESULTS, unreadable=reader.unreadable)
            requested = min(MAX_RESULTS, 10 * requested)

    async def word_search(
        self,
        index: str,
        owner: Owner,
        text: str,
        chosen: Filter,
        limit: int,
        now: datetime,
        *,
        embeddings: bool,
    ) -> Hits:
        """Find the owner's records that have words of a text and match, best first, among the best 200.

        Instead of similarities they have the workspace's scores.
        """
        columns = DatabricksIndexSchemas.get_search_columns(owner.kind)
        if embeddings:
            columns.append(Column.EMBEDDING)
        clauses = handed_over(owner, chosen).clauses
        hits: list[Hit] = []
        reader = RecordReader(owner.kind, "databricks")
        received = 0
        async for row in self._queries.rows_with_words(index, clauses, text, MAX_WORD_RESULTS, columns=columns):
            received += 1
            if not self._is_owned(owner, row) or not passes(owner.kind, chosen, row, now):
                continue
            record = reader.read(row)
            if record is not None:
                hits.append(Hit(record, read_text(row.get(Column.CREW_ID)), read_float(row.get(SCORE))))
            if len(hits) == limit:
                return Hits(hits, truncated=False, unreadable=reader.unreadable)
        return Hits(hits, truncated=received >= MAX_WORD_RESULTS, unreadable=reader.unreadable)

    async def fetch(
        self, index: str, owner: Owner, keys: Sequence[str], *, embeddings: bool, columns: Sequence[str] = ()
    ) -> dict[str, Row]:
        """Return the owner's rows of these primary keys: all their columns (the vector on demand), or some."""
        schema = DatabricksIndexSchemas.get_schema(owner.kind)
        columns = columns or [name for name in schema if embeddings or name != Column.EMBEDDING]
        quotable, others = list(keys), set[str]()
        if not all(is_safe(key) for key in keys) and await self._queries.takes_text() is not False:
            # Keys of rows that something else has written, which the string language may not be able to hold.
            quotable, others = [key for key in keys if is_safe(key)], {key for key in keys if not is_safe(key)}
        found: dict[str, Row] = {}
        for start in range(0, len(quotable), MAX_VALUES):
            part = quotable[start : start + MAX_VALUES]
            clauses = [*owner_clauses(owner), keys_clause(part)]
            async for row in self._queries.rows(index, clauses, None, len(part), columns=columns):
                if self._is_owned(owner, row):
                    found[row[Column.ID]] = {name: row[name] for name in columns}
        if others:
            async for row in self._queries.rows(index, owner_clauses(owner), None, MAX_RESULTS, columns=columns):
                if row[Column.ID] in others and self._is_owned(owner, row):
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
        columns = [] if deciding is None else [*_decision_columns(owner, deciding), metadata_column(key.kind)]
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

        A row that something else has written under a record's id is replaced where it is.

        Raises:
            FailedPrecondition: the index is read only.
        """
        await self.check_writable(index)
        by_id = {record.id: record for record in records}
        existing = await self.find(index, key, by_id, deciding=EVERYTHING)
        replaced = {client_id: rows[0] for client_id, rows in existing.items()}
        for client_id, record in by_id.items():
            row = replaced.get(client_id)
            record.stored_id = key.stored_id(client_id) if row is None else row[Column.ID]
        return replaced

    async def count_documents(self, index: str, owner: Owner, chosen: Filter, now: datetime, most: int = 0) -> Tally:
        """Count the owner's rows that match: exactly up to `most` rows (0: 10,000), beyond that at least so many."""
        columns = _decision_columns(owner, chosen)
        received, count, most = 0, 0, most or MAX_RESULTS
        async for row in self._queries.rows(index, handed_over(owner, chosen).clauses, None, most, columns=columns):
            received += 1
            count += self._is_owned(owner, row) and passes(owner.kind, chosen, row, now)
        return Tally(count, at_least=received >= most)

    async def rows(
        self, index: str, owner: Owner, chosen: Filter, now: datetime, columns: Iterable[str]
    ) -> AsyncIterator[list[Row]]:
        """Yield these columns of all of the owner's rows that match, page by page and in no order.

        Up to 10,000 rows are returned by a query. For more the whole index is read.
        """
        page: list[Row] = []
        wanted = {*_decision_columns(owner, chosen), *columns}
        names = [name for name in DatabricksIndexSchemas.get_schema(owner.kind) if name in wanted]
        clauses = handed_over(owner, chosen).clauses
        async for row in self._queries.rows(index, clauses, None, MAX_RESULTS, columns=names):
            page.append(row)
        if len(page) < MAX_RESULTS:
            yield [row for row in page if self._is_owned(owner, row) and passes(owner.kind, chosen, row, now)]
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
        self.recent_writes.note(keys, removed=True)
        accepted, failed = await self._client.delete(self._location.workspace_url, index, keys)
        if failed:
            raise partial_failure("removed", [(names or {}).get(key, key) for key in failed])
        return accepted

    async def keys(self, index: str, owner: Owner, chosen: Filter, now: datetime) -> tuple[Sequence[str], bool]:
        """Return the primary keys of the owner's rows that match, and whether these are all: 10,000 are returned."""
        columns = _decision_columns(owner, chosen)
        received, found = 0, list[str]()
        clauses = handed_over(owner, chosen).clauses
        async for row in self._queries.rows(index, clauses, None, MAX_RESULTS, columns=columns):
            received += 1
            if self._is_owned(owner, row) and passes(owner.kind, chosen, row, now):
                found.append(row[Column.ID])
        return found, received < MAX_RESULTS

    async def remove_expired(self, index: str, owner: Owner, now: datetime) -> int:
        """Remove what of the owner's rows has expired, as far as one query returns it, and return how many.

        What was written lately stays: it may be read as it was before.
        """
        expired: list[str] = []
        columns = _decision_columns(owner, EVERYTHING)
        async for row in self._queries.rows(index, owner_clauses(owner), None, MAX_RESULTS, columns=columns):
            if self._is_owned(owner, row) and not passes(owner.kind, EVERYTHING, row, now):
                expired.append(row[Column.ID])
        expired = [key for key in expired if not self.recent_writes.written(key)]
        return await self.delete_records(index, expired) if expired else 0

    async def holds_others(self, index: str, group_id: str) -> bool:
        """Return whether an index has rows of other groups, whether or not a backend of theirs names it now."""
        others = Clause(Column.GROUP_ID, Comparison.NOT_EQUAL, (group_id,))
        columns = [Column.ID, Column.GROUP_ID]
        async for row in self._queries.rows(index, [others], None, 1, columns=columns):
            return bool(row[Column.GROUP_ID] != group_id)
        return False

    async def survey(self, index: str, owner: Owner) -> Survey:
        """Look for rows among the owner's first 10,000 that are no records."""
        columns = DatabricksIndexSchemas.get_search_columns(owner.kind)
        survey = Survey()
        async for row in self._queries.rows(index, owner_clauses(owner), None, MAX_RESULTS, columns=columns):
            if self._is_owned(owner, row):
                survey.add(owner.kind, row)
        return survey

    async def unit_vector_of(self, index: str, owner: Owner) -> tuple[str, Vector] | None:
        """Return the primary key and the vector of one of the owner's rows, whose vector has unit length."""
        columns = [Column.ID, *(clause.column for clause in owner_clauses(owner)), Column.EMBEDDING]
        async for row in self._queries.rows(index, owner_clauses(owner), None, _SPARE_ROWS, columns=columns):
            vector = read_vector(row.get(Column.EMBEDDING))
            if self._is_owned(owner, row) and vector is not None and abs(float(np.linalg.norm(vector)) - 1.0) < 1e-3:
                return row[Column.ID], vector
        return None

    async def score(self, index: str, owner: Owner, stored_id: str, vector: Vector) -> float | None:
        """Return the score of one of the owner's rows as the workspace gives it; None when the row is not found."""
        clauses = [*owner_clauses(owner), keys_clause([stored_id])]
        columns = [clause.column for clause in clauses]
        async for row in self._queries.rows(index, clauses, vector, 1, columns=columns):
            if row[Column.ID] == stored_id and self._is_owned(owner, row):
                return read_float(row.get(SCORE))
        return None

    def _cosine(self, score: object) -> float:
        try:
            return self._formula.cosine(score)
        except ValueError:
            raise bad_answer(self._location.workspace_url) from None

    def _is_owned(self, owner: Owner, row: Row) -> bool:
        if owner.owns(row):
            return True
        _FOREIGN_ROWS.inc()
        logger.critical("foreign_row_dropped", endpoint=self._location.endpoint, kind=owner.kind.name)
        return False


def partial_failure(what: str, ids: Sequence[str]) -> Aborted:
    """Return the failure of a call of which some rows were not written or removed.

    As many of their ids are named as gRPC carries; `failed_count` is their number.
    """
    named, size = list[str](), 2
    for failed_id in ids:
        size += len(json.dumps(failed_id)) + 2
        if size > _MOST_NAMED_BYTES:
            break
        named.append(failed_id)
    shown = ", ".join(named[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    return Aborted(
        f"{len(ids)} records were not {what}: {shown}; send the call again",
        reason="PARTIAL_FAILURE",
        metadata={"failed_ids": json.dumps(named), "failed_count": str(len(ids))},
    )


def read_only(index: str, source_table: str) -> FailedPrecondition:
    """Return the refusal to write to an index that follows a table."""
    return FailedPrecondition(
        f"index {index} follows the table {source_table} and is read only: write to that table, or name a "
        "direct-access index in the backend (UpdateMemoryBackend) and create it (ProvisionMemoryBackend)",
        reason="INDEX_READ_ONLY",
        metadata={"index": index, "source_table": source_table},
    )


def _decision_columns(owner: Owner, chosen: Filter) -> list[str]:
    """Return the columns that `passes` and the check of ownership read."""
    columns = {clause.column for clause in owner_clauses(owner)} | {Column.ID, Column.GROUP_ID}
    columns |= {*filters.columns_needed(owner.kind, chosen), metadata_column(owner.kind)}
    schema = DatabricksIndexSchemas.get_schema(owner.kind)
    columns |= {name for name in (Column.CREATED_AT, Column.TIMESTAMP, Column.TTL_HOURS) if name in schema}
    return [name for name in schema if name in columns]


def passes(kind: MemoryKind, chosen: Filter, row: Row, now: datetime) -> bool:
    """Return whether a row is alive and matches a filter; what a row does not say meets no condition."""
    created, ends = created_of(row), row_expires_at(kind, row)
    if ends is not None and ends <= now:
        return False
    if kind is MemoryKind.SHORT_TERM and created is not None:
        # A row without a lifetime was written by something else, and nobody said that it ends.
        hours = read_integer(row.get(Column.TTL_HOURS), bits=32)
        if hours > 0 and now - created >= timedelta(hours=hours):
            return False
    if chosen is EVERYTHING:
        return True
    timed = chosen.created_before is not None or chosen.created_after is not None
    if timed and (created is None or not filters.within_times(chosen, microseconds(created))):
        return False
    return filters.matches(kind, chosen, typed_row(kind, row))
