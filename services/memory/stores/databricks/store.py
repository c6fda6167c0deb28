"""Memories of one backend's indexes, behind the same interface as the embedded default."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import numpy as np
import structlog

from services.common.errors import CoxswainError, FailedPrecondition, FieldViolation
from services.memory.domain.backends import MemoryBackend
from services.memory.domain.copies import identity_of
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.listings import ListPosition, RecordPage, Tally
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.owners import owner_of
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.saves import SavedRecord, SavePlan, StoredRecord, ids_to_read, plan_save
from services.memory.domain.scopes import ScopeRow
from services.memory.domain.searches import Found, Query, Ranking, SearchOutcome
from services.memory.domain.vectors import EmbeddingSpace, embedding_mismatch
from services.memory.filters import created_at, is_empty
from services.memory.repositories.memory_backends import RemoteNamespace
from services.memory.rows import Row, parse_list, parse_row
from services.memory.schemas import Column
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.repository import MAX_RESULTS, DatabricksVectorIndexRepository, Hit, passes

logger = structlog.get_logger(__name__)
_EXPIRED_FOR = timedelta(days=1)
"""Long enough that nobody is just saving what is removed."""
_RANKED_CANDIDATES = 1000
_COUNTS_AT_ONCE = 8
_DAY_SECONDS = 86_400.0
_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class NamespaceNotes:
    """What the vector store cannot report: the namespaces that were written to, and when to remove expired records."""

    note: Callable[[RemoteNamespace], Awaitable[None]]
    page: Callable[[int, tuple[str, MemoryKind] | None], Awaitable[Sequence[RemoteNamespace]]]
    sweep_due: Callable[[str], bool]
    """Takes a crew's turn: true once in a while."""


class DatabricksMemoryStore:
    """The indexes of one backend. What the vector store cannot do itself is done here, within its limits.

    Saves are not transactions: Aborted names what was not written. Searches with a filter the store does not know, and
    ranked ones, consider the nearest 10,000 and 1,000 rows; lists of more than 10,000 rows read the whole index.
    """

    compares_revisions: ClassVar[bool] = False

    def __init__(
        self,
        repository: DatabricksVectorIndexRepository,
        backend: MemoryBackend,
        notes: NamespaceNotes,
        *,
        pause_seconds: float,
    ) -> None:
        """`pause_seconds` is how long to wait for removals to be seen."""
        assert backend.databricks is not None
        self._repository = repository
        self._backend = backend
        self._config = backend.databricks
        self._notes = notes
        self._pause_seconds = pause_seconds

    async def space(self, key: NamespaceKey) -> EmbeddingSpace | None:
        """See `MemoryStore`; every namespace of a backend has the embedding space of its indexes."""
        self._index(key.kind)
        return self._config.space

    async def save(
        self,
        key: NamespaceKey,
        space: EmbeddingSpace,
        records: Sequence[Record],
        now: datetime,
        *,
        crew_name: str = "",
    ) -> Sequence[SavedRecord]:
        """See `MemoryStore`; of a save that fails some records may be stored.

        A record without an id is held against those that were saved without one: the index cannot be asked for a text.
        """
        index = self._index(key.kind)
        if space != self._config.space:
            raise embedding_mismatch(self._config.space, space.model, space.dimension)
        plan = await self._plan(index, key, records, now)
        await self._notes.note(RemoteNamespace(key.memory_id, key.kind, crew_name))
        await self._repository.upsert(index, key, plan.writes, space.model)
        if key.kind is MemoryKind.SHORT_TERM and self._notes.sweep_due(key.memory_id):
            await self._sweep(index, key, now)
        return plan.saved

    async def _plan(self, index: str, key: NamespaceKey, new: Sequence[Record], now: datetime) -> SavePlan:
        stored: dict[str, StoredRecord | None] = {}
        same: dict[str, Record] = {}
        while ids := ids_to_read(new, stored):
            by_stored_id = {key.stored_id(record_id): record_id for record_id in ids}
            stored |= dict.fromkeys(ids)
            found = await self._repository.fetch(index, _owner(key), list(by_stored_id), embeddings=False)
            for stored_id, row in found.items():
                # An expired memory is not continued: this is a new one.
                if passes(key.kind, EVERYTHING, row, now):
                    record = parse_row(key.kind, row)
                    identity = identity_of(record)
                    stored[by_stored_id[stored_id]] = StoredRecord(
                        identity, created_at(key.kind, row), owner_of(record), record.revision
                    )
                    same.setdefault(identity, record)
        return plan_save(new, stored, same, now)

    async def _sweep(self, index: str, key: NamespaceKey, now: datetime) -> None:
        """Remove what has expired while a caller's credential is at hand: nothing can be called without one."""
        try:
            removed = await self._repository.remove_expired(index, _owner(key), now - _EXPIRED_FOR)
        except CoxswainError as error:
            # The records are saved, and reads leave out expired ones in any case.
            logger.warning("expired_memories_not_removed", index=index, reason=error.reason)
        else:
            logger.info("expired_memories_removed", index=index, count=removed)

    async def search(self, key: NamespaceKey, query: Query, now: datetime) -> SearchOutcome:
        """See `MemoryStore`."""
        index = self._index(key.kind)
        if len(query.vector) != self._config.space.dimension:
            raise embedding_mismatch(self._config.space, "", len(query.vector))
        # The order of equal scores is the index's own, so pages are identified by rank.
        before = query.after.rank if query.after else 0
        end = before + query.limit
        limit = min(MAX_RESULTS, end if query.ranking is None else max(_RANKED_CANDIDATES, end))
        if before >= limit:
            return SearchOutcome(truncated=True)
        found = await self._repository.similarity_search(
            index,
            _owner(key),
            query.vector,
            query.filter,
            limit,
            now,
            embeddings=query.include_embeddings,
            min_score=query.min_score,
        )
        if query.ranking is None:
            hits = found.hits[before:]
            results = [Found(parse_row(key.kind, hit.row), hit.similarity, hit.similarity) for hit in hits]
            return SearchOutcome(results, truncated=found.truncated)
        results = _ranked(key.kind, found.hits, query.ranking, query.asked_at or now)[before:end]
        return SearchOutcome(results, truncated=found.truncated or len(found.hits) == limit)

    async def get(
        self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, embeddings: bool, chosen: Filter = EVERYTHING
    ) -> Sequence[Record]:
        """See `MemoryStore`."""
        found = await self._fetch(key, ids, now, chosen=chosen, embeddings=embeddings)
        return [parse_row(key.kind, row) for row in found.values()]

    async def page(
        self,
        key: NamespaceKey,
        chosen: Filter,
        limit: int,
        after: ListPosition | None,
        now: datetime,
        *,
        embeddings: bool,
    ) -> RecordPage:
        """See `MemoryStore`."""
        index, owner = self._index(key.kind), _owner(key)
        newest: list[tuple[tuple[int, str], Row]] = []
        async for rows in self._repository.rows(index, owner, chosen, now):
            positions = (((microseconds(created_at(key.kind, row)), row[Column.ID]), row) for row in rows)
            newest.extend(entry for entry in positions if after is None or entry[0] < (after.created, after.stored_id))
            newest.sort(key=lambda entry: entry[0], reverse=True)
            del newest[limit + 1 :]
        shown = [row for _, row in newest[:limit]]
        if embeddings and shown:
            complete = await self._repository.fetch(index, owner, [row[Column.ID] for row in shown], embeddings=True)
            shown = [complete.get(row[Column.ID], row) for row in shown]
        return RecordPage([parse_row(key.kind, row) for row in shown], more=len(newest) > limit)

    async def delete(self, key: NamespaceKey, ids: Sequence[str] | None, chosen: Filter | None, now: datetime) -> int:
        """See `MemoryStore`."""
        index = self._index(key.kind)
        if ids is None:
            return await self._empty(index, key, chosen or EVERYTHING, now)
        chosen = chosen or EVERYTHING
        names = {key.stored_id(client_id): client_id for client_id in ids}
        seen = await self._repository.fetch(index, _owner(key), list(names), embeddings=False)
        found = {stored_id for stored_id, row in seen.items() if passes(key.kind, chosen, row, now)}
        # Records saved moments ago are not visible yet but must be removed, too.
        doomed = [
            stored_id for stored_id in names if stored_id in found or (is_empty(chosen) and stored_id not in seen)
        ]
        if doomed:
            await self._repository.delete_records(index, doomed, names)
        return len(found)

    async def count(self, key: NamespaceKey, chosen: Filter, now: datetime) -> Tally:
        """See `MemoryStore`."""
        return await self._repository.count_documents(self._index(key.kind), _owner(key), chosen, now)

    async def clear(self, key: NamespaceKey) -> int:
        """See `MemoryStore`; the embedding space is the backend's and stays."""
        # With the earliest of times nothing has expired yet: everything is removed.
        return await self._empty(self._index(key.kind), key, EVERYTHING, _EARLIEST)

    async def touch(self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, chosen: Filter = EVERYTHING) -> int:
        """See `MemoryStore`; rows are written again as a whole, since partial updates do not exist.

        Those that were written or removed lately are left as they are: what is read of them may be what they were
        before, and writing that would undo a save or bring back what was removed.
        """
        recent = self._repository.recent_writes
        found = await self._fetch(key, ids, now, chosen=chosen, embeddings=True)
        records = [parse_row(key.kind, row) for stored_id, row in found.items() if not recent.written(stored_id)]
        for record in records:
            if hasattr(record.body, Column.LAST_ACCESSED):
                setattr(record.body, Column.LAST_ACCESSED, now)
        if records:
            await self._repository.upsert(self._index(key.kind), key, records, self._config.space.model)
        return sum(not recent.removed(stored_id) for stored_id in found)

    async def scope_rows(self, key: NamespaceKey, prefix: str) -> Sequence[ScopeRow]:
        """See `MemoryStore`."""
        found: dict[tuple[str, str], list[datetime]] = defaultdict(list)
        chosen = Filter(scope_prefix=prefix)
        async for rows in self._repository.rows(self._index(key.kind), _owner(key), chosen, _EARLIEST):
            for row in rows:
                found[row[Column.SCOPE], row[Column.CATEGORIES]].append(created_at(key.kind, row))
        return [
            ScopeRow(scope, parse_list(categories), len(times), min(times), max(times))
            for (scope, categories), times in sorted(found.items())
        ]

    async def namespaces(
        self, group_id: str, limit: int, after: tuple[str, MemoryKind] | None
    ) -> Sequence[NamespaceInfo]:
        """See `MemoryStore`; versions are 0, as nothing is remembered by them."""
        notes = await self._notes.page(limit, after)
        gate = asyncio.Semaphore(_COUNTS_AT_ONCE)

        async def describe(written: RemoteNamespace) -> NamespaceInfo:
            key = NamespaceKey(group_id, written.memory_id, written.kind)
            async with gate:
                tally = await self.count(key, EVERYTHING, _EARLIEST)
            return NamespaceInfo(key, self._config.space, tally.count, 0, written.crew_name)

        return await asyncio.gather(*(describe(written) for written in notes if written.kind in self._config.indexes))

    def _index(self, kind: MemoryKind) -> str:
        name = self._config.index_name(kind)
        if name is None:
            raise FailedPrecondition(
                f'memory backend "{self._backend.name}" has no index for {kind.name}: name one '
                "(UpdateMemoryBackend) and create it (ProvisionMemoryBackend)",
                reason="INVALID_FIELD",
                violations=(FieldViolation("namespace.kind", "the active backend has no index for it"),),
            )
        return name

    async def _empty(self, index: str, key: NamespaceKey, chosen: Filter, now: datetime) -> int:
        done = 0
        async for progress in self._repository.empty_index(index, _owner(key), chosen, now, self._pause_seconds):
            done = progress.done
        return done

    async def _fetch(
        self,
        key: NamespaceKey,
        ids: Sequence[str],
        now: datetime,
        *,
        chosen: Filter = EVERYTHING,
        embeddings: bool = False,
    ) -> dict[str, Row]:
        """Return the living rows of client ids by primary key, in the order of the ids."""
        index = self._index(key.kind)
        keys = list(dict.fromkeys(key.stored_id(client_id) for client_id in ids))
        found = await self._repository.fetch(index, _owner(key), keys, embeddings=embeddings)
        return {
            stored_id: found[stored_id]
            for stored_id in keys
            if stored_id in found and passes(key.kind, chosen, found[stored_id], now)
        }


def _owner(key: NamespaceKey) -> Owner:
    return Owner(key.kind, key.group_id, key.memory_id)


def _ranked(kind: MemoryKind, hits: Sequence[Hit], ranking: Ranking, now: datetime) -> list[Found]:
    if not hits:
        return []
    records = [parse_row(kind, hit.row) for hit in hits]
    scores = ranking.blend(
        np.array([hit.similarity for hit in hits]),
        np.array([(now - created_at(kind, hit.row)).total_seconds() / _DAY_SECONDS for hit in hits]),
        np.array([float(hit.row.get(Column.IMPORTANCE) or 0.0) for hit in hits]),
    ).tolist()
    order = sorted(range(len(hits)), key=lambda position: (-scores[position], hits[position].row[Column.ID]))
    return [Found(records[position], scores[position], hits[position].similarity) for position in order]
