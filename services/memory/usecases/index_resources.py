"""Databricks indexes and endpoints themselves: describing, listing, making and removing them."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.common.clock import utc_now
from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.identity.principal import Principal
from services.common.resource_key import ResourceKey
from services.memory.domain.backends import MemoryBackend, RegisteredIndex
from services.memory.domain.records import MemoryKind
from services.memory.repositories.memory_backends import MemoryBackendRepository
from services.memory.stores.databricks.descriptions import EndpointDescription, IndexDescription, ResourceState
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.upstream_errors import AlreadyThere
from services.memory.usecases.memory_backends import Edit, note_endpoint
from services.memory.usecases.registered_indexes import RegisteredIndexes, config_of, confirm, need_platform_admin

_DESCRIBED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An index as it is registered and as the store describes it."""

    registered: RegisteredIndex
    description: IndexDescription


class IndexResources:
    """Every operation concerns the backends of the calling principal's group."""

    def __init__(self, registered: RegisteredIndexes) -> None:
        self._registered = registered

    async def describe(self, principal: Principal, index: str) -> IndexInfo:
        """Return an index and its state."""
        registered, repository = await self._registered.open(principal, index)
        return IndexInfo(registered, await repository.resources.describe_index(index))

    async def listed(self, principal: Principal, key: ResourceKey | None) -> Sequence[IndexInfo]:
        """Return the indexes of the group or of one of its backends, sorted by name."""
        async with self._registered.database.read() as connection:
            backends = MemoryBackendRepository(connection)
            backend = await backends.get(principal.group_id, key) if key else None
            registered = await backends.indexes(principal.group_id, backend)
        gate = asyncio.Semaphore(_DESCRIBED_AT_ONCE)

        async def describe(registered: RegisteredIndex) -> IndexInfo:
            async with gate:
                repository = self._registered.stores.repository(registered.backend)
                return IndexInfo(registered, await repository.resources.describe_index(registered.name))

        return await asyncio.gather(*(describe(index) for index in registered))

    async def create_index(self, principal: Principal, index: str, key: ResourceKey, kind: MemoryKind) -> IndexInfo:
        """Make an index and register it with a backend; one that is there already is only registered.

        Raises:
            InvalidArgument: it is in another catalog or schema than the backend's.
            FailedPrecondition: the backend has another index for the kind, or it cannot be made.
        """
        backend = await self._registered.backend(principal, key)
        register = registration(index, kind)
        register(backend)
        repository = self._registered.stores.repository(backend)
        with contextlib.suppress(AlreadyThere):
            await repository.resources.create_index(index, kind, config_of(backend).space.dimension)
        async with self._registered.database.write() as connection:
            backends = MemoryBackendRepository(connection)
            await backends.hold(principal.group_id)
            await backends.store(register(await backends.get(principal.group_id, ResourceKey(id=backend.id))))
        self._registered.stores.forget(principal.group_id)
        return await self.describe(principal, index)

    async def delete_index(self, principal: Principal, index: str, confirm_name: str) -> None:
        """Drop an index; it stays registered.

        Raises:
            FailedPrecondition: the confirmation does not repeat the name.
            PermissionDenied: other groups share it.
        """
        confirm(confirm_name, index, "index")
        registered, repository = await self._registered.open(principal, index)
        if await _is_shared(registered, repository, await repository.resources.describe_index(index)):
            need_platform_admin(
                principal, f"index {index} has rows of other groups, or backends of theirs name it: dropping it"
            )
        await repository.resources.delete_index(index)

    async def create_endpoint(
        self, principal: Principal, key: ResourceKey, *, storage_optimized: bool
    ) -> EndpointDescription:
        """Make a backend's endpoint; one that is there already is returned as it is.

        Raises:
            InvalidArgument: the backend wants what endpoints of this type do not have.
        """
        backend = await self._registered.backend(principal, key)
        config = config_of(backend)
        if storage_optimized and config.target_qps:
            raise InvalidArgument.field(
                "type",
                "STORAGE_OPTIMIZED endpoints take no target_qps, and the backend has one: set it to 0 "
                "(UpdateMemoryBackend), or make a STANDARD endpoint",
            )
        repository = self._registered.stores.repository(backend)
        try:
            made = await repository.resources.create_endpoint(
                storage_optimized=storage_optimized, target_qps=config.target_qps
            )
        except AlreadyThere:
            return await repository.resources.describe_endpoint()
        await self._note_endpoint(backend, config.endpoint)
        return made

    async def endpoint(self, principal: Principal, key: ResourceKey) -> EndpointDescription:
        """Return a backend's endpoint."""
        backend = await self._registered.backend(principal, key)
        config_of(backend)
        return await self._registered.stores.repository(backend).resources.describe_endpoint()

    async def endpoints(self, principal: Principal, key: ResourceKey) -> Sequence[EndpointDescription]:
        """Return the endpoints of a backend's workspace that the caller's credential can see."""
        backend = await self._registered.backend(principal, key)
        config_of(backend)
        return await self._registered.stores.repository(backend).resources.list_endpoints()

    async def delete_endpoint(self, principal: Principal, key: ResourceKey, confirm_name: str) -> None:
        """Remove a backend's endpoint, which may serve no index any more.

        Raises:
            FailedPrecondition: the confirmation does not repeat the name, or it still serves indexes.
            PermissionDenied: the backend did not make it.
        """
        backend = await self._registered.backend(principal, key)
        config = config_of(backend)
        confirm(confirm_name, config.endpoint, "endpoint")
        if backend.made_endpoint != config.endpoint:
            need_platform_admin(principal, f"endpoint {config.endpoint} was not made by this backend: removing it")
        repository = self._registered.stores.repository(backend)
        await repository.resources.delete_endpoint()
        await self._note_endpoint(backend, "")

    async def _note_endpoint(self, backend: MemoryBackend, made: str) -> None:
        async with self._registered.database.write() as connection:
            await note_endpoint(MemoryBackendRepository(connection), backend, made)


async def _is_shared(
    registered: RegisteredIndex, repository: DatabricksVectorIndexRepository, description: IndexDescription
) -> bool:
    """Return whether dropping an index would affect other groups: their rows stay when their backends are removed."""
    if registered.shared or description.state is not ResourceState.READY:
        return registered.shared
    return await repository.probes.holds_others(registered.name, registered.backend.group_id)


def registration(index: str, kind: MemoryKind) -> Edit:
    """Return the change that has a backend name an index.

    Raises (the change):
        InvalidArgument: the index is in another catalog or schema, or holds another kind.
        FailedPrecondition: the backend has another index for the kind.
    """
    catalog, schema, name = index.split(".")

    def register(backend: MemoryBackend) -> MemoryBackend:
        config = config_of(backend)
        if (catalog, schema) != (config.catalog, config.schema):
            raise InvalidArgument.field("index", f"must be in the backend's schema, {config.catalog}.{config.schema}")
        # Names differ by more than their case: workspaces ignore it.
        if config.indexes.get(kind, name).lower() != name.lower():
            raise FailedPrecondition(
                f'memory backend "{backend.name}" has the index {config.index_name(kind)} for {kind.name} already',
                reason="RESOURCE_IN_USE",
                metadata={"resource": "kind", "id": kind.name, "used_by": str(config.index_name(kind))},
            )
        holding = [
            other.name for other, taken in config.indexes.items() if taken.lower() == name.lower() and other is not kind
        ]
        if holding:
            raise InvalidArgument.field(
                "index", f"holds {holding[0]} records already; each kind needs an index of its own"
            )
        changed = replace(config, indexes={**config.indexes, kind: name})
        return replace(backend, databricks=changed, updated_at=utc_now())

    return register
