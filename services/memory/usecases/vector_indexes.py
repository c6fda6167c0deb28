"""Records in the Databricks indexes that are registered to a group by its backends."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy.typing as npt

from services.common.clock import utc_now
from services.common.errors import InvalidArgument
from services.common.identity.principal import Principal, Role
from services.memory.domain.copies import chosen_ids, identity_of
from services.memory.domain.filters import EVERYTHING, Condition, Filter
from services.memory.domain.listings import Tally
from services.memory.domain.namespaces import NamespaceKey, namespace_secret
from services.memory.domain.owners import assign_owner, caller
from services.memory.domain.records import MemoryKind, Record, ShortTerm
from services.memory.domain.saves import foreign_private
from services.memory.domain.vectors import embedding_mismatch
from services.memory.repositories.memory_backends import MemoryBackendRepository, RemoteNamespace
from services.memory.rows.columns import Column
from services.memory.rows.row import private_owner
from services.memory.stores.databricks.emptying import empty_index
from services.memory.stores.databricks.row_checks import passes
from services.memory.usecases.memories import query_vector
from services.memory.usecases.registered_indexes import RegisteredIndexes, config_of, confirm, memory_of, owner_of

_DEFAULT_LIMIT = 10
_NEVER_EXPIRED = datetime(1, 1, 1, tzinfo=UTC)
"""A present in which nothing has expired: everything is meant."""

ConditionsFor = Callable[[MemoryKind], Sequence[Condition]]
"""Reads conditions against the schema of an index's kind."""


@dataclass(frozen=True, slots=True)
class SimilarRecord:
    """A record, the crew it belongs to, and its cosine similarity."""

    record: Record
    memory_id: str
    score: float


@dataclass(frozen=True, slots=True)
class SimilarRecords:
    """Records, best first, whether others may match that were not looked at, and how many rows were no records."""

    records: Sequence[SimilarRecord]
    truncated: bool
    unreadable: int


@dataclass(frozen=True, slots=True)
class EmptyProgress:
    """Records removed so far, of how many (0: not known), and how many a second."""

    done: int
    total: int
    rate: float
    finished: bool


@dataclass(frozen=True, slots=True)
class IndexLimits:
    """What decides how indexes are emptied and what new records live by."""

    pause_seconds: float
    """Wait for removals to be seen."""
    short_term_ttl_hours: int
    private_ids: bytes
    """The key of the ids that private records get."""


class VectorIndexes:
    """An index that no backend of the caller's group names does not exist for the caller."""

    def __init__(self, registered: RegisteredIndexes, limits: IndexLimits) -> None:
        self._registered = registered
        self._limits = limits

    async def upsert(self, principal: Principal, index: str, memory_id: str, records: Sequence[Record]) -> None:
        """Write records with embeddings; those without an id get one that follows from what they hold.

        Raises:
            InvalidArgument: a record is of another kind, has no embedding, or the crew is missing.
            FailedPrecondition: a vector has another length than the index.
            PermissionDenied: a record has the id of somebody else's private one.
            Aborted: some records were not written.
        """
        registered, repository = await self._registered.open(principal, index)
        key = NamespaceKey(principal.group_id, memory_of(registered.kind, memory_id, required=True), registered.kind)
        space = config_of(registered.backend).space
        private_ids = namespace_secret(self._limits.private_ids, key)
        now = utc_now()
        for position, record in enumerate(records):
            if record.kind is not registered.kind:
                raise InvalidArgument.field(
                    f"records[{position}]",
                    f"is a {record.kind.name} record; the index holds {registered.kind.name} records",
                )
            if record.embedding is None:
                raise InvalidArgument.field(
                    f"records[{position}].embedding", "is needed; MemoryService.SaveRecords embeds texts"
                )
            if len(record.embedding) != space.dimension:
                raise embedding_mismatch(space, "", len(record.embedding))
            if isinstance(record.body, ShortTerm) and record.body.ttl_hours == 0:
                record.body.ttl_hours = self._limits.short_term_ttl_hours
            if record.expected_revision is not None:
                raise InvalidArgument.field(
                    f"records[{position}].expected_revision", "an index cannot compare it; leave it out"
                )
            assign_owner(record, principal)
            record.created_at = record.created_at or now
            record.id = record.id or next(chosen_ids(record, identity_of(record), private_ids))
        records = list({record.id: record for record in records}.values())
        replaced = await repository.place(index, key, records)
        for record in records:
            row = replaced.get(record.id)
            # An expired record is nobody's any more: this is a new one.
            if row is None or not passes(key.kind, EVERYTHING, row, now):
                continue
            owner = private_owner(key.kind, row)
            if owner is not None and owner != record.owner:
                raise foreign_private(record.id)
        async with self._registered.database.write() as connection:
            written = RemoteNamespace(key.memory_id, key.kind, "")
            await MemoryBackendRepository(connection).note_namespace(registered.backend, written)
        await repository.upsert(index, key, records, space.model)

    async def search(
        self,
        principal: Principal,
        index: str,
        memory_id: str,
        values: npt.ArrayLike,
        conditions_for: ConditionsFor,
        limit: int,
        min_score: float | None,
    ) -> SimilarRecords:
        """Return the nearest of the group's records, best first; without a crew, of all crews.

        Raises:
            NotFound: no backend of the group names the index.
            InvalidArgument: a condition does not fit the kind, or the vector cannot be compared.
            FailedPrecondition: the vector has another length than the index.
        """
        registered, repository = await self._registered.open(principal, index)
        conditions = conditions_for(registered.kind)
        space = config_of(registered.backend).space
        vector = query_vector(values, "query_vector")
        if len(vector) != space.dimension:
            raise embedding_mismatch(space, "", len(vector))
        owner = owner_of(principal, registered.kind, memory_id)
        found = await repository.searches.similarity_search(
            registered.name,
            owner,
            vector,
            Filter(tuple(conditions)),
            limit or _DEFAULT_LIMIT,
            utc_now(),
            embeddings=False,
            min_score=min_score,
        )
        return SimilarRecords(
            [SimilarRecord(hit.record, hit.memory_id, hit.similarity) for hit in found.hits],
            found.truncated,
            found.unreadable,
        )

    async def delete_records(self, principal: Principal, index: str, memory_id: str, ids: Sequence[str]) -> int:
        """Remove records by id and return how many removals were accepted, unknown ids included.

        Without a memory id the ids are primary keys of any of the group's rows.

        Raises:
            FailedPrecondition: the index is read only.
            Aborted: some were not removed.
        """
        registered, repository = await self._registered.open(principal, index)
        await repository.check_writable(index)
        wanted = list(dict.fromkeys(ids))
        if not memory_id and registered.kind is not MemoryKind.DOCUMENT:
            rows = await repository.fetch(
                index,
                owner_of(principal, registered.kind, ""),
                wanted,
                embeddings=False,
                columns=[Column.ID, Column.GROUP_ID],
            )
            if rows:
                await repository.delete_records(index, list(rows))
            return len(wanted)
        key = NamespaceKey(principal.group_id, memory_of(registered.kind, memory_id, required=True), registered.kind)
        names = {key.stored_id(client_id): client_id for client_id in wanted}
        found = await repository.find(index, key, wanted, deciding=EVERYTHING)
        # Records written moments ago are not visible yet but must be removed, too.
        doomed = dict.fromkeys([*names, *(row[Column.ID] for rows in found.values() for row in rows)])
        await repository.delete_records(index, list(doomed), names)
        return len(wanted)

    async def count(self, principal: Principal, index: str, memory_id: str, conditions_for: ConditionsFor) -> Tally:
        """Count the group's records; of the private ones the caller's own, for editors all.

        Raises:
            NotFound: no backend of the group names the index.
            InvalidArgument: a condition does not fit the kind.
        """
        registered, repository = await self._registered.open(principal, index)
        conditions = conditions_for(registered.kind)
        owner = owner_of(principal, registered.kind, memory_id)
        chosen = Filter(tuple(conditions), owner=caller(principal, ""), include_private=principal.role >= Role.EDITOR)
        return await repository.count_documents(registered.name, owner, chosen, utc_now())

    async def empty(
        self, principal: Principal, index: str, memory_id: str, confirm_name: str
    ) -> AsyncIterator[EmptyProgress]:
        """Remove the group's records and report progress; calling again continues.

        The index itself stays: dropping it would leave the group without one where it cannot be made again.

        Raises:
            FailedPrecondition: the confirmation does not repeat the name, or the index is read only.
        """
        confirm(confirm_name, index, "index")
        registered, repository = await self._registered.open(principal, index)
        started = time.monotonic()
        owner = owner_of(principal, registered.kind, memory_id)
        async for step in empty_index(repository, index, owner, EVERYTHING, _NEVER_EXPIRED, self._limits.pause_seconds):
            elapsed = max(time.monotonic() - started, 1e-6)
            yield EmptyProgress(step.done, step.total, step.done / elapsed, finished=step.finished)
