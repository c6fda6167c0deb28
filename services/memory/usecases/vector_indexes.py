"""Databricks indexes and endpoints that are registered to a group by its backends."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy.typing as npt

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from services.common.identity.principal import Principal, Role
from services.common.resource_key import ResourceKey
from services.memory.domain.backends import DatabricksConfig, MemoryBackend, RegisteredIndex
from services.memory.domain.copies import chosen_ids, identity_of
from services.memory.domain.filters import EVERYTHING, Condition, Filter
from services.memory.domain.listings import Tally
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.owners import assign_owner
from services.memory.domain.records import MemoryKind, Record, ShortTerm
from services.memory.domain.vectors import embedding_mismatch
from services.memory.repositories.memory_backends import MemoryBackendRepository, RemoteNamespace
from services.memory.rows import parse_row
from services.memory.schemas import Column
from services.memory.stores.databricks.descriptions import EndpointDescription, IndexDescription, ResourceState
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.provisioning import ProvisionLimits, make_index
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.upstream_errors import AlreadyThere
from services.memory.stores.group_stores import BackendStores
from services.memory.usecases.memories import check_memory_id, query_vector
from services.memory.usecases.memory_backends import Edit, note_endpoint

_DEFAULT_LIMIT = 10
_DESCRIBED_AT_ONCE = 8
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
    """Records, best first, and whether others may match that could not be read."""

    records: Sequence[SimilarRecord]
    truncated: bool


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An index as it is registered and as the store describes it."""

    registered: RegisteredIndex
    description: IndexDescription


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

    recreate_rows: int
    """Rows from which an index that is one group's own is dropped and made again."""
    pause_seconds: float
    """Wait for removals to be seen."""
    short_term_ttl_hours: int


class VectorIndexes:
    """An index that no backend of the caller's group names does not exist for the caller."""

    def __init__(
        self,
        database: Database,
        indexes: BackendStores,
        provisioning: ProvisionLimits,
        limits: IndexLimits,
    ) -> None:
        self._database = database
        self._indexes = indexes
        self._provisioning = provisioning
        self._limits = limits

    async def upsert(self, principal: Principal, index: str, memory_id: str, records: Sequence[Record]) -> None:
        """Write records with embeddings; those without an id get one that follows from what they hold.

        Raises:
            InvalidArgument: a record is of another kind, has no embedding, or the crew is missing.
            FailedPrecondition: a vector has another length than the index.
            Aborted: some records were not written.
        """
        registered, repository = await self._open(principal, index)
        key = NamespaceKey(principal.group_id, _memory_of(registered.kind, memory_id, required=True), registered.kind)
        space = _config(registered.backend).space
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
            record.id = record.id or next(chosen_ids(identity_of(record)))
        async with self._database.write() as connection:
            written = RemoteNamespace(key.memory_id, key.kind, "")
            await MemoryBackendRepository(connection).note_namespace(registered.backend, written)
        await repository.upsert(index, key, list({record.id: record for record in records}.values()), space.model)

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
        registered, repository = await self._open(principal, index)
        conditions = conditions_for(registered.kind)
        space = _config(registered.backend).space
        vector = query_vector(values, "query_vector")
        if len(vector) != space.dimension:
            raise embedding_mismatch(space, "", len(vector))
        owner = _owner(principal, registered.kind, memory_id)
        found = await repository.similarity_search(
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
            [
                SimilarRecord(
                    parse_row(registered.kind, hit.row), str(hit.row.get(Column.CREW_ID) or ""), hit.similarity
                )
                for hit in found.hits
            ],
            found.truncated,
        )

    async def delete_records(self, principal: Principal, index: str, memory_id: str, ids: Sequence[str]) -> int:
        """Remove records by id and return how many removals were accepted.

        Raises:
            Aborted: some were not removed.
        """
        registered, repository = await self._open(principal, index)
        key = NamespaceKey(principal.group_id, _memory_of(registered.kind, memory_id, required=True), registered.kind)
        names = {key.stored_id(client_id): client_id for client_id in ids}
        return await repository.delete_records(index, list(names), names)

    async def count(self, principal: Principal, index: str, memory_id: str, conditions_for: ConditionsFor) -> Tally:
        """Count the group's records.

        Raises:
            NotFound: no backend of the group names the index.
            InvalidArgument: a condition does not fit the kind.
        """
        registered, repository = await self._open(principal, index)
        conditions = conditions_for(registered.kind)
        owner = _owner(principal, registered.kind, memory_id)
        chosen = Filter(tuple(conditions), include_private=True)
        return await repository.count_documents(registered.name, owner, chosen, utc_now())

    async def describe(self, principal: Principal, index: str) -> IndexInfo:
        """Return an index and its state."""
        registered, repository = await self._open(principal, index)
        return IndexInfo(registered, await repository.describe_index(index))

    async def listed(self, principal: Principal, key: ResourceKey | None) -> Sequence[IndexInfo]:
        """Return the indexes of the group or of one of its backends, sorted by name."""
        async with self._database.read() as connection:
            backends = MemoryBackendRepository(connection)
            backend = await backends.get(principal.group_id, key) if key else None
            registered = await backends.indexes(principal.group_id, backend)
        gate = asyncio.Semaphore(_DESCRIBED_AT_ONCE)

        async def describe(registered: RegisteredIndex) -> IndexInfo:
            async with gate:
                repository = self._indexes.repository(registered.backend)
                return IndexInfo(registered, await repository.describe_index(registered.name))

        return await asyncio.gather(*(describe(index) for index in registered))

    async def empty(
        self, principal: Principal, index: str, memory_id: str, confirm_name: str
    ) -> AsyncIterator[EmptyProgress]:
        """Remove the group's records and report progress; calling again continues.

        A large index that is one group's own is dropped and made again.

        Raises:
            FailedPrecondition: the confirmation does not repeat the name.
        """
        _confirm(confirm_name, index, "index")
        registered, repository = await self._open(principal, index)
        started = time.monotonic()
        description = await repository.describe_index(index)
        # One that is not there was dropped by a call that was cut short before it had made it again.
        dropped = description.state is ResourceState.NOT_FOUND
        large = not memory_id and description.row_count > self._limits.recreate_rows
        if (dropped or large) and not await _is_shared(registered, repository, description):
            total = description.row_count
            yield EmptyProgress(0, total, 0.0, finished=False)
            if not dropped:
                await repository.delete_index(index)
            dimension = _config(registered.backend).space.dimension
            async for _ in make_index(repository, index, registered.kind, dimension, self._provisioning, []):
                yield EmptyProgress(0, total, 0.0, finished=False)
            yield EmptyProgress(total, total, total / max(time.monotonic() - started, 1e-6), finished=True)
            return
        owner = _owner(principal, registered.kind, memory_id)
        progress = repository.empty_index(index, owner, EVERYTHING, _NEVER_EXPIRED, self._limits.pause_seconds)
        async for step in progress:
            elapsed = max(time.monotonic() - started, 1e-6)
            yield EmptyProgress(step.done, step.total, step.done / elapsed, finished=step.finished)

    async def create_index(self, principal: Principal, index: str, key: ResourceKey, kind: MemoryKind) -> IndexInfo:
        """Make an index and register it with a backend; one that is there already is only registered.

        Raises:
            InvalidArgument: it is in another catalog or schema than the backend's.
            FailedPrecondition: the backend has another index for the kind, or it cannot be made.
        """
        backend = await self._backend(principal, key)
        register = _registration(index, kind)
        register(backend)
        repository = self._indexes.repository(backend)
        with contextlib.suppress(AlreadyThere):
            await repository.create_index(index, kind, _config(backend).space.dimension)
        async with self._database.write() as connection:
            backends = MemoryBackendRepository(connection)
            await backends.hold(principal.group_id)
            await backends.store(register(await backends.get(principal.group_id, ResourceKey(id=backend.id))))
        self._indexes.forget(principal.group_id)
        return await self.describe(principal, index)

    async def delete_index(self, principal: Principal, index: str, confirm_name: str) -> None:
        """Drop an index; it stays registered.

        Raises:
            FailedPrecondition: the confirmation does not repeat the name.
            PermissionDenied: other groups share it.
        """
        _confirm(confirm_name, index, "index")
        registered, repository = await self._open(principal, index)
        if await _is_shared(registered, repository, await repository.describe_index(index)):
            _need_platform_admin(
                principal, f"index {index} has rows of other groups, or backends of theirs name it: dropping it"
            )
        await repository.delete_index(index)

    async def create_endpoint(
        self, principal: Principal, key: ResourceKey, *, storage_optimized: bool
    ) -> EndpointDescription:
        """Make a backend's endpoint; one that is there already is returned as it is."""
        backend = await self._backend(principal, key)
        config = _config(backend)
        repository = self._indexes.repository(backend)
        try:
            made = await repository.create_endpoint(storage_optimized=storage_optimized)
        except AlreadyThere:
            return await repository.describe_endpoint()
        await self._note_endpoint(backend, config.endpoint)
        return made

    async def endpoint(self, principal: Principal, key: ResourceKey) -> EndpointDescription:
        """Return a backend's endpoint."""
        backend = await self._backend(principal, key)
        _config(backend)
        return await self._indexes.repository(backend).describe_endpoint()

    async def endpoints(self, principal: Principal, key: ResourceKey) -> Sequence[EndpointDescription]:
        """Return the endpoints of a backend's workspace that the caller's credential can see."""
        backend = await self._backend(principal, key)
        _config(backend)
        return await self._indexes.repository(backend).list_endpoints()

    async def delete_endpoint(self, principal: Principal, key: ResourceKey, confirm_name: str) -> None:
        """Remove a backend's endpoint, which may serve no index any more.

        Raises:
            FailedPrecondition: the confirmation does not repeat the name, or it still serves indexes.
            PermissionDenied: the backend did not make it.
        """
        backend = await self._backend(principal, key)
        config = _config(backend)
        _confirm(confirm_name, config.endpoint, "endpoint")
        if backend.made_endpoint != config.endpoint:
            _need_platform_admin(principal, f"endpoint {config.endpoint} was not made by this backend: removing it")
        repository = self._indexes.repository(backend)
        await repository.delete_endpoint()
        await self._note_endpoint(backend, "")

    async def _backend(self, principal: Principal, key: ResourceKey) -> MemoryBackend:
        async with self._database.read() as connection:
            return await MemoryBackendRepository(connection).get(principal.group_id, key)

    async def _note_endpoint(self, backend: MemoryBackend, made: str) -> None:
        async with self._database.write() as connection:
            await note_endpoint(MemoryBackendRepository(connection), backend, made)

    async def _open(self, principal: Principal, index: str) -> tuple[RegisteredIndex, DatabricksVectorIndexRepository]:
        """Return an index that a backend of the caller's group names, and the repository that reads it.

        Raises:
            NotFound: no backend names it.
        """
        async with self._database.read() as connection:
            registered = await MemoryBackendRepository(connection).index(principal.group_id, index)
        if registered is None:
            raise NotFound(
                f"no memory backend of your group names the index {index}",
                reason="INDEX_NOT_REGISTERED",
                metadata={"index": index},
            )
        return registered, self._indexes.repository(registered.backend)


async def _is_shared(
    registered: RegisteredIndex, repository: DatabricksVectorIndexRepository, description: IndexDescription
) -> bool:
    """Return whether dropping an index would affect other groups: their rows stay when their backends are removed."""
    if registered.shared or description.state is not ResourceState.READY:
        return registered.shared
    return await repository.holds_others(registered.name, registered.backend.group_id)


def _registration(index: str, kind: MemoryKind) -> Edit:
    """Return the change that has a backend name an index.

    Raises (the change):
        InvalidArgument: the index is in another catalog or schema, or holds another kind.
        FailedPrecondition: the backend has another index for the kind.
    """
    catalog, schema, name = index.split(".")

    def register(backend: MemoryBackend) -> MemoryBackend:
        config = _config(backend)
        if (catalog, schema) != (config.catalog, config.schema):
            raise InvalidArgument.field("index", f"must be in the backend's schema, {config.catalog}.{config.schema}")
        if config.indexes.get(kind, name) != name:
            raise FailedPrecondition(
                f'memory backend "{backend.name}" has the index {config.index_name(kind)} for {kind.name} already',
                reason="RESOURCE_IN_USE",
                metadata={"resource": "kind", "id": kind.name, "used_by": str(config.index_name(kind))},
            )
        holding = [other.name for other, taken in config.indexes.items() if taken == name and other is not kind]
        if holding:
            raise InvalidArgument.field(
                "index", f"holds {holding[0]} records already; each kind needs an index of its own"
            )
        changed = replace(config, indexes={**config.indexes, kind: name})
        return replace(backend, databricks=changed, updated_at=utc_now())

    return register


def _config(backend: MemoryBackend) -> DatabricksConfig:
    if backend.databricks is None:
        raise FailedPrecondition(
            f'memory backend "{backend.name}" is the embedded default, which has neither indexes nor endpoints',
            reason="INVALID_FIELD",
        )
    return backend.databricks


def _memory_of(kind: MemoryKind, memory_id: str, *, required: bool) -> str:
    if kind is MemoryKind.DOCUMENT and memory_id:
        raise InvalidArgument.field("memory_id", "documents belong to the whole group: leave it empty")
    if required and kind is not MemoryKind.DOCUMENT and not memory_id:
        raise InvalidArgument.field("memory_id", "is empty; GetCrew returns the memory_id of a stored crew")
    check_memory_id(memory_id, "memory_id")
    return memory_id


def _owner(principal: Principal, kind: MemoryKind, memory_id: str) -> Owner:
    return Owner(kind, principal.group_id, _memory_of(kind, memory_id, required=False) or None)


def _confirm(given: str, name: str, field: str) -> None:
    if given != name:
        raise FailedPrecondition(
            f"confirm_name has to repeat the {field}'s name, {name}",
            reason="CONFIRMATION_MISMATCH",
            metadata={"expected_field": field},
        )


def _need_platform_admin(principal: Principal, what: str) -> None:
    if not principal.platform_admin:
        raise PermissionDenied(
            f"{what} needs platform administration",
            reason="ROLE_REQUIRED",
            metadata={"required": Role.PLATFORM_ADMIN.name, "actual": principal.role.name},
        )
