"""Memories of one backend's indexes, behind the same interface as the embedded default."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import structlog

from services.common.errors import CoxswainError, FailedPrecondition, FieldViolation
from services.memory.domain.backends import MemoryBackend
from services.memory.domain.copies import identities_of, identity_of
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.listings import ListPosition, RecordPage, Tally
from services.memory.domain.moments import UNKNOWN
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey, namespace_secret
from services.memory.domain.near_copies import NearCopies
from services.memory.domain.owners import owner_of
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.saves import SavedRecord, SavePlan, StoredRecord, ids_to_read, plan_save
from services.memory.domain.scopes import ScopeRow
from services.memory.domain.searches import Query, Reranking, SearchOutcome, WordQuery
from services.memory.domain.vectors import EmbeddingSpace, embedding_mismatch
from services.memory.filters import is_empty
from services.memory.repositories.memory_backends import RemoteNamespace
from services.memory.rows.columns import Column, DatabricksIndexSchemas
from services.memory.rows.reader import RecordReader
from services.memory.rows.row import created_of
from services.memory.rows.values import parse_list, read_text
from services.memory.stores.databricks.emptying import empty_index
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.listed_positions import ListedPositions
from services.memory.stores.databricks.listings import TIMES, IndexListings
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.row_checks import passes
from services.memory.stores.databricks.upstream_errors import IndexMissing
from services.memory.stores.databricks.vector_searches import VectorSearches
from services.memory.stores.databricks.wire import can_be_written
from services.memory.stores.databricks.word_searches import WordSearches
from services.memory.stores.documents import SteppedDocuments
from services.memory.stores.near_copies import queries_for

logger = structlog.get_logger(__name__)
_EXPIRED_FOR = timedelta(days=1)
"""Long enough that nobody is just saving what is removed."""
_COUNTS_AT_ONCE = 8
_COUNTED_IN_LISTS = 1000
"""Records of a namespace that a list of namespaces counts: one page of one query."""
_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class NamespaceNotes:
    """What the vector store cannot report: the namespaces that were written to, and when to remove expired records."""

    note: Callable[[RemoteNamespace], Awaitable[None]]
    page: Callable[[int, tuple[str, MemoryKind] | None], Awaitable[Sequence[RemoteNamespace]]]
    names: Callable[[Sequence[str]], Awaitable[Mapping[tuple[str, MemoryKind], str]]]
    """Returns the names of crews by memory id and kind, given memory ids."""
    sweep_due: Callable[[str], bool]
    """Takes a crew's turn: true once in a while."""


class DatabricksMemoryStore(SteppedDocuments):
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
        listed: ListedPositions,
        pause_seconds: float,
        private_ids: bytes,
    ) -> None:
        """`listed` is what lists remember, `pause_seconds` how long to wait for removals to be seen.

        `private_ids` is the key of the ids that private records get here, the same in every process.
        """
        assert backend.databricks is not None
        self._repository = repository
        self._backend = backend
        self._config = backend.databricks
        self._notes = notes
        self._listings = IndexListings(repository, listed)
        self._vectors = VectorSearches(repository, self._config.space)
        self._words = WordSearches(repository)
        self._pause_seconds = pause_seconds
        self._private_ids = private_ids

    @property
    def backend_id(self) -> str | None:
        """See `MemoryStore`."""
        return self._backend.id

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
        near_copies: float = 0.0,
    ) -> Sequence[SavedRecord]:
        """See `MemoryStore`; of a save that fails some records may be stored.

        A record without an id is held against those that were saved without one: the index cannot be asked for a text.
        Near-copies are those that the index shows, so that saves beside each other may miss each other's.
        """
        index = self._index(key.kind)
        if space != self._config.space:
            raise embedding_mismatch(self._config.space, space.model, space.dimension)
        plan = await self._plan(index, key, records, now, near_copies)
        await self._notes.note(RemoteNamespace(key.memory_id, key.kind, crew_name))
        await self._repository.upsert(index, key, plan.writes, space.model)
        ending = key.kind is MemoryKind.SHORT_TERM or any(record.expires_at is not None for record in records)
        if ending and self._notes.sweep_due(key.memory_id):
            await self._sweep(index, key, now)
        return plan.saved

    async def _plan(
        self, index: str, key: NamespaceKey, new: Sequence[Record], now: datetime, near_copies: float
    ) -> SavePlan:
        await self._repository.check_writable(index)
        stored: dict[str, StoredRecord | None] = {}
        same: dict[str, Record] = {}
        placed: dict[str, str] = {}
        reader = RecordReader(key.kind, "databricks")
        private_ids = namespace_secret(self._private_ids, key)
        identities = await asyncio.to_thread(identities_of, new)
        while ids := ids_to_read(new, identities, stored, private_ids):
            stored |= dict.fromkeys(ids)
            found = await self._repository.find(index, key, ids)
            for record_id, rows in found.items():
                placed[record_id] = rows[0][Column.ID]
                # An expired memory is not continued: this is a new one.
                record = reader.read(rows[0]) if passes(key.kind, EVERYTHING, rows[0], now) else None
                if record is not None:
                    record.created_at = record.created_at or now
                    identity = identity_of(record)
                    stored[record_id] = StoredRecord(
                        identity, record.created_at, owner_of(record), record.revision, record.subjects
                    )
                    same.setdefault(identity, record)
        near = NearCopies(near_copies) if near_copies else None
        if near:
            for query in queries_for(new, near_copies):
                near.add(found.record for found in (await self.search(key, query, now)).results)
        plan = plan_save(new, identities, stored, same, now, private_ids, near)
        for record in plan.writes:
            # A row that something else has written under a record's id is replaced where it is.
            record.stored_id = record.stored_id or placed.get(record.id, "")
        return plan

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
        return await self._vectors.find(self._index(key.kind), _owner(key), query, now)

    async def search_several(self, keys: Sequence[NamespaceKey], query: Query, now: datetime) -> SearchOutcome:
        """See `SearchesSeveral`."""
        owner = _owner_of_several(keys)
        return await self._vectors.find(self._index(owner.kind), owner, query, now)

    async def search_words(self, key: NamespaceKey, query: WordQuery, now: datetime) -> SearchOutcome:
        """See `MemoryStore`; what a word is, the workspace decides, too."""
        return await self._words.find(self._index(key.kind), _owner(key), query, now)

    async def search_words_several(
        self, keys: Sequence[NamespaceKey], query: WordQuery, now: datetime
    ) -> SearchOutcome:
        """See `SearchesSeveral`."""
        owner = _owner_of_several(keys)
        return await self._words.find(self._index(owner.kind), owner, query, now)

    async def rerank(self, key: NamespaceKey, reranking: Reranking, stored_ids: Sequence[str]) -> Sequence[str]:
        """See `RerankingStore`: the model is the workspace's own."""
        columns = list(dict.fromkeys(reranking.columns)) or DatabricksIndexSchemas.get_word_columns(key.kind)
        index = self._index(key.kind)
        return await self._repository.searches.reranked(index, _owner(key), reranking.text, columns, stored_ids)

    async def get(
        self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, embeddings: bool, chosen: Filter = EVERYTHING
    ) -> Sequence[Record]:
        """See `MemoryStore`."""
        found = await self._repository.find(self._index(key.kind), key, ids, embeddings=embeddings)
        reader = RecordReader(key.kind, "databricks")
        records: list[Record] = []
        for rows in found.values():
            living = [row for row in rows if passes(key.kind, chosen, row, now)]
            readable = (reader.read(row) for row in living)
            records += [record for record in readable if record is not None][:1]
        return records

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
        index = self._index(key.kind)
        return await self._listings.page(index, _owner(key), chosen, limit, after, now, embeddings=embeddings)

    def read_through(
        self, key: NamespaceKey, chosen: Filter, after: str, now: datetime, *, embeddings: bool
    ) -> AsyncIterator[Sequence[tuple[str, Record]]]:
        """See `MemoryStore`; in the order of the primary keys."""
        index = self._index(key.kind)
        return self._listings.read_through(index, _owner(key), chosen, after, now, embeddings=embeddings)

    async def delete(self, key: NamespaceKey, ids: Sequence[str] | None, chosen: Filter | None, now: datetime) -> int:
        """See `MemoryStore`."""
        index = self._index(key.kind)
        await self._repository.check_writable(index)
        if ids is None:
            return await self._empty(index, key, chosen or EVERYTHING, now)
        chosen = chosen or EVERYTHING
        found = await self._repository.find(index, key, ids, deciding=chosen)
        matching = {
            client_id: [row[Column.ID] for row in rows if passes(key.kind, chosen, row, now)]
            for client_id, rows in found.items()
        }
        names = {key.stored_id(client_id): client_id for client_id in ids}
        doomed = [stored_id for keys in matching.values() for stored_id in keys]
        if is_empty(chosen):
            # Records saved moments ago are not visible yet but must be removed, too.
            doomed += [stored_id for stored_id, client_id in names.items() if client_id not in found]
        if doomed:
            await self._repository.delete_records(index, doomed, names)
        return sum(bool(keys) for keys in matching.values())

    async def count(self, key: NamespaceKey, chosen: Filter, now: datetime) -> Tally:
        """See `MemoryStore`."""
        return await self._repository.count_documents(self._index(key.kind), _owner(key), chosen, now)

    async def clear(self, key: NamespaceKey) -> int:
        """See `MemoryStore`; the embedding space is the backend's and stays."""
        # With the earliest of times nothing has expired yet: everything is removed.
        return await self._empty(self._index(key.kind), key, EVERYTHING, _EARLIEST)

    async def touch(self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, chosen: Filter = EVERYTHING) -> int:
        """See `MemoryStore`; rows are written again as a whole, since partial updates do not exist.

        Those that cannot be written, as something else has, are left as they are. So are those that were written or
        removed lately: what is read of them may be what they were before, and writing that would undo a save or bring
        back what was removed.
        """
        repository, index = self._repository, self._index(key.kind)
        await repository.check_writable(index)
        found = await repository.find(index, key, ids, embeddings=True)
        living = [
            [
                row
                for row in rows
                if can_be_written(row)
                and passes(key.kind, chosen, row, now)
                and not repository.removed_lately(index, row[Column.ID])
            ]
            for rows in found.values()
        ]
        touched = [
            {**row, Column.LAST_ACCESSED: now}
            for rows in living
            for row in rows
            if not repository.written_lately(index, row[Column.ID])
        ]
        if touched:
            await repository.write_rows(index, touched)
        return sum(bool(rows) for rows in living)

    async def scope_rows(self, key: NamespaceKey, prefix: str, now: datetime) -> Sequence[ScopeRow]:
        """See `MemoryStore`."""
        found: dict[tuple[str, tuple[str, ...]], list[datetime]] = defaultdict(list)
        chosen = Filter(scope_prefix=prefix)
        columns = [Column.SCOPE, Column.CATEGORIES, *TIMES]
        async for rows in self._repository.rows(self._index(key.kind), _owner(key), chosen, now, columns):
            for row in rows:
                scope = read_text(row[Column.SCOPE]) or "/"
                found[scope, parse_list(row[Column.CATEGORIES])].append(created_of(row) or UNKNOWN)
        return [
            ScopeRow(scope, categories, len(times), min(times), max(times))
            for (scope, categories), times in sorted(found.items())
        ]

    async def namespaces(
        self, group_id: str, limit: int, after: tuple[str, MemoryKind] | None, *, counted: bool = True
    ) -> Sequence[NamespaceInfo]:
        """See `MemoryStore`; versions are 0, as nothing is remembered by them."""
        notes = await self._notes.page(limit, after)
        gate = asyncio.Semaphore(_COUNTS_AT_ONCE)

        async def describe(written: RemoteNamespace) -> NamespaceInfo:
            key = NamespaceKey(group_id, written.memory_id, written.kind)
            info = NamespaceInfo(key, self._config.space, 0, 0, written.crew_name)
            index = self._config.index_name(written.kind)
            if index is None:
                return replace(info, problem=f"the backend has no index for {written.kind.name} any more")
            if not counted:
                return info
            async with gate:
                try:
                    tally = await self._repository.count_documents(
                        index, _owner(key), EVERYTHING, _EARLIEST, _COUNTED_IN_LISTS
                    )
                except IndexMissing:
                    return replace(info, problem=f"index {index} does not exist")
            return replace(info, record_count=tally.count, at_least=tally.at_least)

        return await asyncio.gather(*map(describe, notes))

    async def describe(self, keys: Sequence[NamespaceKey]) -> Mapping[NamespaceKey, NamespaceInfo]:
        """See `MemoryStore`; something else may have written to any of them, so all are there."""
        names = await self._notes.names([key.memory_id for key in keys])
        return {
            key: NamespaceInfo(key, self._config.space, 0, 0, names.get((key.memory_id, key.kind), "")) for key in keys
        }

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
        steps = empty_index(self._repository, index, _owner(key), chosen, now, self._pause_seconds)
        async for progress in steps:
            done = progress.done
        return done


def _owner(key: NamespaceKey) -> Owner:
    return Owner(key.kind, key.group_id, key.memory_id)


def _owner_of_several(keys: Sequence[NamespaceKey]) -> Owner:
    first = keys[0]
    return Owner(first.kind, first.group_id, None, tuple(dict.fromkeys(key.memory_id for key in keys)))
