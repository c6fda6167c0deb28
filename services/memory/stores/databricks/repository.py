"""Indexes and endpoints of Databricks Vector Search: one method for each thing done with them.

Rows are built and read through `schemas` alone; every query carries its owner, and every row is checked for it.
"""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import structlog
from prometheus_client import Counter

from services.common.errors import Aborted, CoxswainError, FailedPrecondition, Unavailable
from services.memory import filters
from services.memory.domain.filters import EVERYTHING, Comparison, Filter
from services.memory.domain.listings import Tally
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.vectors import Vector
from services.memory.rows import MalformedRow, Row, build_row, format_time
from services.memory.schemas import Column, DatabricksIndexSchemas
from services.memory.stores.databricks.client import (
    SCORE,
    Json,
    QueryPage,
    VectorSearchClient,
    WireRow,
    encode_vector,
)
from services.memory.stores.databricks.descriptions import (
    STORAGE_OPTIMIZED,
    EndpointDescription,
    IndexDescription,
    endpoint_description,
    index_description,
)
from services.memory.stores.databricks.endpoint_types import EndpointTypes, Location
from services.memory.stores.databricks.filter_language import (
    MAX_VALUES,
    Clause,
    Owner,
    handed_over,
    keys_clause,
    owner_clauses,
    query_filter,
)
from services.memory.stores.databricks.recent_writes import RecentWrites
from services.memory.stores.databricks.upstream_errors import IndexMissing, bad_answer

logger = structlog.get_logger(__name__)
_FOREIGN_ROWS = Counter(
    "coxswain_memory_foreign_rows_total", "Rows of other owners that a vector store returned, and that were dropped"
)

MAX_RESULTS = 10_000
"""What one query can return."""

_Value = TypeVar("_Value")
_MOST_WAITS = 30
"""Times that removals which were accepted may still not be seen."""
_MOST_NAMED_BYTES = 1200
"""Failures travel in gRPC's trailers, of which clients take 8 KiB."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that was found and its cosine similarity."""

    row: Row
    similarity: float


@dataclass(frozen=True, slots=True)
class Hits:
    """What a search found, best first."""

    hits: Sequence[Hit]
    truncated: bool
    """Whether there are more of the owner's rows than could be read: others may match too."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the emptying of an index has come; a total of 0 is not known."""

    done: int
    total: int
    finished: bool


class DatabricksVectorIndexRepository:
    """The indexes of one location, called with the credential of the current caller."""

    def __init__(
        self,
        client: VectorSearchClient,
        location: Location,
        endpoint_types: EndpointTypes,
        recent_writes: RecentWrites,
    ) -> None:
        self._client = client
        self._location = location
        self._endpoint_types = endpoint_types
        self.recent_writes = recent_writes

    @property
    def endpoint(self) -> str:
        """Name of the endpoint that its queries are meant for."""
        return self._location.endpoint

    async def upsert(self, index: str, key: NamespaceKey, records: Sequence[Record], embedding_model: str) -> None:
        """Write records whose embeddings and times are set, replacing those of the same id.

        Raises:
            Aborted: some were not written; the metadata name them by the client's ids.
        """
        client_ids = {key.stored_id(record.id): record.id for record in records}
        rows = await asyncio.to_thread(
            lambda: [wire_row(build_row(key, record, embedding_model)) for record in records]
        )
        self.recent_writes.note(client_ids, removed=False)
        failed = await self._client.upsert(self._location.workspace_url, index, rows)
        if failed:
            raise partial_failure("written", [client_ids.get(stored_id, stored_id) for stored_id in failed])

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
        """Find the owner's rows nearest to a vector that match and are as similar as `min_score`, at most `limit`.

        What the store cannot decide of the filter is decided here, on as many of the nearest rows as it takes, up to
        the 10,000 that a query can return.
        """
        clauses, whole = handed_over(owner, chosen)
        columns = DatabricksIndexSchemas.get_search_columns(owner.kind)
        if embeddings:
            columns.append(Column.EMBEDDING)
        requested = limit if whole else min(MAX_RESULTS, 100 + 4 * limit)
        while True:
            hits: list[Hit] = []
            received = 0
            async for row in self._query(index, clauses, vector, requested, columns=columns):
                received += 1
                similarity = self._cosine(row.get(SCORE))
                if min_score is not None and similarity < min_score:
                    return Hits(hits, truncated=False)
                if self._is_owned(owner, row) and passes(owner.kind, chosen, row, now):
                    hits.append(Hit(row, similarity))
                    if len(hits) == limit:
                        return Hits(hits, truncated=False)
            if received < requested or requested == MAX_RESULTS:
                return Hits(hits, truncated=received >= MAX_RESULTS)
            requested = min(MAX_RESULTS, 10 * requested)

    async def fetch(self, index: str, owner: Owner, keys: Sequence[str], *, embeddings: bool) -> dict[str, Row]:
        """Return the owner's rows of these primary keys, with all their columns, the vector only on demand."""
        schema = DatabricksIndexSchemas.get_schema(owner.kind)
        columns = [name for name in schema if embeddings or name != Column.EMBEDDING]
        found: dict[str, Row] = {}
        for start in range(0, len(keys), MAX_VALUES):
            part = keys[start : start + MAX_VALUES]
            clauses = [*owner_clauses(owner), keys_clause(part)]
            async for row in self._query(index, clauses, None, len(part), columns=columns):
                if self._is_owned(owner, row):
                    found[row[Column.ID]] = row
        return found

    async def count_documents(self, index: str, owner: Owner, chosen: Filter, now: datetime) -> Tally:
        """Count the owner's rows that match: exactly up to 10,000 rows, beyond that at least so many."""
        columns = _decision_columns(owner, chosen)
        received, count = 0, 0
        async for row in self._query(index, handed_over(owner, chosen)[0], None, MAX_RESULTS, columns=columns):
            received += 1
            count += self._is_owned(owner, row) and passes(owner.kind, chosen, row, now)
        return Tally(count, at_least=received >= MAX_RESULTS)

    async def rows(self, index: str, owner: Owner, chosen: Filter, now: datetime) -> AsyncIterator[list[Row]]:
        """Yield all of the owner's rows that match, page by page and in no order.

        Up to 10,000 rows are returned by a query. For more the whole index is read.
        """
        page: list[Row] = []
        columns = DatabricksIndexSchemas.get_search_columns(owner.kind)
        async for row in self._query(index, handed_over(owner, chosen)[0], None, MAX_RESULTS, columns=columns):
            page.append(row)
        if len(page) < MAX_RESULTS:
            yield [row for row in page if self._is_owned(owner, row) and passes(owner.kind, chosen, row, now)]
            return
        del page
        async for scanned in self.scan(index):
            yield [
                {name: value for name, value in row.items() if name != Column.EMBEDDING}
                for row in scanned
                if owner.owns(row) and passes(owner.kind, chosen, row, now)
            ]

    def scan(self, index: str) -> AsyncIterator[list[Json]]:
        """Yield all rows of an index, those of every owner, with their vectors, in the order of their keys."""
        return self._client.scan(self._location.workspace_url, index)

    async def delete_records(self, index: str, keys: Sequence[str], names: Mapping[str, str] | None = None) -> int:
        """Remove rows by primary key and return how many removals were accepted; unknown keys count too.

        Raises:
            Aborted: some were not removed; `names` gives the ids that the metadata shows.
        """
        self.recent_writes.note(keys, removed=True)
        accepted, failed = await self._client.delete(self._location.workspace_url, index, keys)
        if failed:
            raise partial_failure("removed", [(names or {}).get(key, key) for key in failed])
        return accepted

    async def remove_expired(self, index: str, owner: Owner, now: datetime) -> int:
        """Remove what of the owner's rows has expired, as far as one query returns it, and return how many.

        What was written lately stays: it may be read as it was before.
        """
        expired: list[str] = []
        columns = _decision_columns(owner, EVERYTHING)
        async for row in self._query(index, owner_clauses(owner), None, MAX_RESULTS, columns=columns):
            if self._is_owned(owner, row) and not passes(owner.kind, EVERYTHING, row, now):
                expired.append(row[Column.ID])
        expired = [key for key in expired if not self.recent_writes.written(key)]
        return await self.delete_records(index, expired) if expired else 0

    async def empty_index(
        self, index: str, owner: Owner, chosen: Filter, now: datetime, pause_seconds: float
    ) -> AsyncIterator[Progress]:
        """Remove the owner's rows that match, in rounds, until a query finds no more.

        Removals may take a while to be seen: a round that finds only what was removed already waits.
        """
        done = waits = 0
        removed: set[str] = set()
        columns = _decision_columns(owner, chosen)
        while True:
            fresh: list[str] = []
            stale: list[str] = []
            received = 0
            async for row in self._query(index, handed_over(owner, chosen)[0], None, MAX_RESULTS, columns=columns):
                received += 1
                if self._is_owned(owner, row) and passes(owner.kind, chosen, row, now):
                    (stale if row[Column.ID] in removed else fresh).append(row[Column.ID])
            total = done + len(fresh) if received < MAX_RESULTS else 0
            if not fresh and not stale:
                yield Progress(done, done, finished=True)
                return
            if not fresh:
                if waits == _MOST_WAITS:
                    raise Unavailable(
                        f"{len(stale)} rows of index {index} are still there though their removal was accepted; call "
                        "again to continue",
                        reason="STORE_FAILED",
                        metadata={"http_status": "200", "error_code": ""},
                        retry_after=pause_seconds,
                    )
                waits += 1
                await asyncio.sleep(pause_seconds)
            else:
                waits = 0
            # Only the last rounds can still be seen: earlier ones need not be remembered.
            removed = set(fresh) | (removed if stale else set())
            # A row that is still visible may have been written again meanwhile, so it is removed once more.
            doomed = fresh or stale
            step = self._client.limits.delete_keys
            for start in range(0, len(doomed), step):
                part = doomed[start : start + step]
                await self.delete_records(index, part)
                if fresh:
                    done += len(part)
                yield Progress(done, total, finished=False)

    async def holds_others(self, index: str, group_id: str) -> bool:
        """Return whether an index has rows of other groups, whether or not a backend of theirs names it now."""
        others = Clause(Column.GROUP_ID, Comparison.NOT_EQUAL, (group_id,))
        columns = [Column.ID, Column.GROUP_ID]
        async for row in self._query(index, [others], None, 1, columns=columns):
            return bool(row[Column.GROUP_ID] != group_id)
        return False

    async def describe_index(self, index: str) -> IndexDescription:
        """Return what an index is like; NOT_FOUND when there is none."""
        try:
            answer = await self._client.get_index(self._location.workspace_url, index)
        except IndexMissing:
            return IndexDescription(index)
        return self._read(lambda: index_description(index, answer))

    async def create_index(self, index: str, kind: MemoryKind, dimension: int) -> IndexDescription:
        """Make a direct-access index with the schema of a kind.

        Raises:
            FailedPrecondition: the name is taken or still reserved, or the endpoint is not there or not ready.
            ResourceExhausted: the endpoint serves as many indexes as it can.
        """
        answer = await self._client.create_index(
            self._location.workspace_url,
            {
                "name": index,
                "endpoint_name": self._location.endpoint,
                "index_type": DatabricksIndexSchemas.INDEX_TYPE,
                "primary_key": DatabricksIndexSchemas.PRIMARY_KEY,
                "direct_access_index_spec": {
                    "embedding_vector_columns": [
                        {"name": DatabricksIndexSchemas.VECTOR_COLUMN, "embedding_dimension": dimension}
                    ],
                    "schema_json": json.dumps(DatabricksIndexSchemas.get_schema(kind)),
                },
            },
        )
        return self._read(lambda: index_description(index, answer))

    async def delete_index(self, index: str) -> None:
        """Remove an index; one that does not exist is not a failure."""
        self._endpoint_types.forget_dimension((self._location.workspace_url, index))
        try:
            await self._client.delete_index(self._location.workspace_url, index)
        except IndexMissing:
            return

    async def list_indexes(self) -> list[str]:
        """Return the names of the indexes that the endpoint serves."""
        rows = await self._client.list_indexes(self._location.workspace_url, self._location.endpoint)
        return sorted(str(row.get("name")) for row in rows)

    async def describe_endpoint(self) -> EndpointDescription:
        """Return what the endpoint is like; NOT_FOUND when there is none."""
        try:
            answer = await self._client.get_endpoint(self._location.workspace_url, self._location.endpoint)
        except IndexMissing:
            return EndpointDescription(self._location.endpoint)
        return self._read(lambda: endpoint_description(answer))

    async def create_endpoint(self, *, storage_optimized: bool) -> EndpointDescription:
        """Make the endpoint.

        Raises:
            FailedPrecondition: there is one of that name.
        """
        kind = STORAGE_OPTIMIZED if storage_optimized else "STANDARD"
        self._endpoint_types.forget(self._location)
        answer = await self._client.create_endpoint(self._location.workspace_url, self._location.endpoint, kind)
        return self._read(lambda: endpoint_description(answer))

    async def list_endpoints(self) -> list[EndpointDescription]:
        """Return the workspace's endpoints by name."""
        rows = await self._client.list_endpoints(self._location.workspace_url)
        found = self._read(lambda: [endpoint_description(row) for row in rows])
        return sorted(found, key=lambda endpoint: endpoint.name)

    async def delete_endpoint(self) -> None:
        """Remove the endpoint; one that does not exist is not a failure.

        Raises:
            FailedPrecondition: it still serves indexes.
        """
        self._endpoint_types.forget(self._location)
        try:
            await self._client.delete_endpoint(self._location.workspace_url, self._location.endpoint)
        except IndexMissing:
            return

    async def _query(
        self,
        index: str,
        clauses: Sequence[Clause],
        vector: Vector | None,
        limit: int,
        *,
        columns: Sequence[str],
    ) -> AsyncIterator[Row]:
        """Yield the rows of a query and of all its pages; without a vector their order means nothing."""
        values = _zeros(await self._dimension(index)) if vector is None else encode_vector(vector)
        page = await self._first_page(index, {"columns": list(columns), "num_results": limit}, clauses, values)
        received = 0
        while True:
            if page.rows:
                self._check_columns(index, columns, page.rows[0])
            for row in page.rows[: limit - received]:
                yield row
            received += len(page.rows)
            # Stop after an empty page or enough rows: the workspace could name further pages for ever.
            if not page.next_page_token or not page.rows or received >= limit:
                return
            page = await self._client.next_page(
                self._location.workspace_url, index, self._location.endpoint, page.next_page_token
            )

    async def _first_page(self, index: str, body: Json, clauses: Sequence[Clause], values: str) -> QueryPage:
        """Ask in the language of the endpoint's type; where that is not known, find out which one it takes."""
        known = await self._endpoint_types.storage_optimized(self._location, self._client)

        async def ask(*, storage_optimized: bool) -> QueryPage:
            asked = {**body, **query_filter(clauses, storage_optimized=storage_optimized)}
            return await self._client.query(self._location.workspace_url, index, asked, values)

        if known is not None:
            return await ask(storage_optimized=known)
        storage_optimized = False
        try:
            page = await ask(storage_optimized=False)
        except FailedPrecondition as error:
            if error.metadata.get("http_status") != "400":
                raise
            try:
                page = await ask(storage_optimized=True)
            except CoxswainError:
                raise error from None
            storage_optimized = True
        self._endpoint_types.learn(self._location, storage_optimized=storage_optimized)
        return page

    def _check_columns(self, index: str, columns: Sequence[str], row: Row) -> None:
        missing = [name for name in columns if name not in row]
        if missing:
            raise FailedPrecondition(
                f"rows of index {index} lack the columns {', '.join(missing)}: create it again (DeleteIndex, "
                "Provision), or name another index in the backend",
                reason="INDEX_NOT_READY",
                metadata={"index": index, "state": "COLUMNS_MISSING"},
            )

    async def _dimension(self, index: str) -> int:
        """Return the length of an index's vectors: a query without a vector is one with zeros of just that length."""
        location = self._location.workspace_url, index
        known = self._endpoint_types.dimension(location)
        if known is None:
            description = await self.describe_index(index)
            if not description.dimension:
                raise FailedPrecondition(
                    f"index {index} cannot be used: it does not exist or is not a direct-access index",
                    reason="INDEX_NOT_READY",
                    metadata={"index": index, "state": description.state.name},
                )
            known = description.dimension
            self._endpoint_types.learn_dimension(location, known)
        return known

    def _read(self, read: Callable[[], _Value]) -> _Value:
        try:
            return read()
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
            raise bad_answer(self._location.workspace_url) from None

    def _cosine(self, score: object) -> float:
        return self._read(lambda: cosine(score))

    def _is_owned(self, owner: Owner, row: Row) -> bool:
        if owner.owns(row):
            return True
        _FOREIGN_ROWS.inc()
        logger.critical("foreign_row_dropped", endpoint=self._location.endpoint, kind=owner.kind.name)
        return False


def cosine(score: object) -> float:
    """Return the cosine similarity of unit vectors from the store's score, which is 1 / (1 + d²) of their distance d.

    Raises:
        ValueError: it is not a score.
    """
    value = float(score) if isinstance(score, int | float) and not isinstance(score, bool) else 0.0
    if not 0.0 < value <= 1.0 + 1e-6:
        raise ValueError(f"{score!r} is not a score")
    return max(-1.0, min(1.0, 1.0 - (1.0 / value - 1.0) / 2.0))


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


def wire_row(row: Mapping[str, Any]) -> WireRow:
    """Return a row as JSON takes it; what is absent is left out."""
    plain: Json = {}
    vector = ""
    for name, value in row.items():
        if isinstance(value, datetime):
            plain[name] = format_time(value)
        elif isinstance(value, np.ndarray):
            vector = f",{json.dumps(name)}:{encode_vector(value)}"
        elif value is not None:
            plain[name] = value
    text = json.dumps(plain, separators=(",", ":"), allow_nan=False)
    return WireRow(row[Column.ID], f"{text[:-1]}{vector}}}")


@functools.lru_cache(maxsize=64)
def _zeros(dimension: int) -> str:
    return f"[{','.join(['0'] * dimension)}]"


def _decision_columns(owner: Owner, chosen: Filter) -> list[str]:
    """Return the columns that `passes` and the check of ownership read."""
    columns = {clause.column for clause in owner_clauses(owner)} | {Column.ID, Column.GROUP_ID}
    columns |= set(filters.columns_needed(owner.kind, chosen))
    schema = DatabricksIndexSchemas.get_schema(owner.kind)
    columns |= {name for name in (Column.CREATED_AT, Column.TIMESTAMP, Column.TTL_HOURS) if name in schema}
    return [name for name in schema if name in columns]


def passes(kind: MemoryKind, chosen: Filter, row: Row, now: datetime) -> bool:
    """Return whether a row is alive and matches a filter.

    Raises:
        MalformedRow: a column that decides cannot be read.
    """
    try:
        if kind is MemoryKind.SHORT_TERM and now - filters.created_at(kind, row) >= timedelta(
            hours=int(row[Column.TTL_HOURS] or 0)
        ):
            return False
        timed = chosen.created_before is not None or chosen.created_after is not None
        if timed and not filters.within_times(chosen, microseconds(filters.created_at(kind, row))):
            return False
        return filters.matches(kind, chosen, row)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise MalformedRow(kind.name, row.get(Column.ID), error) from None
