"""Where a group's memories are stored: configurations, which one is active, and whether they work."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.errors import (
    CoxswainError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
)
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Page, Pager
from services.common.quotas import quota_exceeded
from services.common.resource_key import ResourceKey
from services.memory.domain.backends import MemoryBackend, PgvectorConfig
from services.memory.domain.vectors import embedding_mismatch_of_index
from services.memory.repositories.memory_backends import MemoryBackendRepository
from services.memory.stores.databricks.provisioning import (
    ProvisionLimits,
    make_endpoint,
    make_index,
    remove_made,
    wanted_indexes,
)
from services.memory.stores.group_stores import BackendStores
from services.memory.stores.pgvector.provisioning import Provisioner
from services.memory.tables import requests

_LISTING = Pager("memory_backends")
EMBEDDED_DEFAULT = ResourceKey(id="default")
"""Stands for the installation's embedded store."""

Edit = Callable[[MemoryBackend], MemoryBackend]


@dataclass(frozen=True, slots=True)
class Step:
    """How far a backend has been provisioned."""

    text: str
    done: int
    total: int
    rate: float
    """Steps this call has done itself, in a second."""


class MemoryBackends:
    """Every operation concerns the calling principal's group."""

    def __init__(
        self,
        database: Database,
        indexes: BackendStores,
        limits: ProvisionLimits,
        databases: Provisioner,
        *,
        most_databases: int,
    ) -> None:
        """`databases` makes what backends keep in databases, of which a group may name `most_databases`."""
        self._database = database
        self._databases = databases
        self._indexes = indexes
        self._limits = limits
        self._most_databases = most_databases

    async def create(self, principal: Principal, draft: MemoryBackend, request: RequestKey | None) -> MemoryBackend:
        """Add a backend; a repeated request returns what the first one added.

        Raises:
            AlreadyExists: the name is taken, or the request_id was used with another body.
            InvalidArgument: the configuration contradicts itself.
            FailedPrecondition: another backend of the group has vectors of another model in one of its indexes.
            ResourceExhausted: the group's backends name as many databases as they may.
        """
        _check(draft)
        now = utc_now()
        backend = replace(draft, id=new_id(), group_id=principal.group_id, created_at=now, updated_at=now)
        async with self._database.write() as connection:
            backends = MemoryBackendRepository(connection)
            if request is not None:
                first = await RequestRepository(connection, requests).claim(request, backend.id)
                if first != backend.id:
                    return await backends.get(principal.group_id, ResourceKey(id=first))
            await _check_space(backends, backend, None)
            await self._check_databases(backends, backend, None)
            await backends.add(backend)
        return backend

    async def get(self, principal: Principal, key: ResourceKey) -> MemoryBackend:
        """Return a backend.

        Raises:
            NotFound: the group has no backend of that id or name.
        """
        async with self._database.read() as connection:
            return await MemoryBackendRepository(connection).get(principal.group_id, key)

    async def page(self, principal: Principal, requested_size: int, page_token: str) -> Page[MemoryBackend]:
        """Return one page of backends, sorted by name.

        Raises:
            InvalidArgument: the token is not of this listing.
        """
        async with self._database.read() as connection:
            backends = MemoryBackendRepository(connection)
            return await _LISTING.page(
                requested_size,
                page_token,
                {"group": principal.group_id},
                lambda after, limit: backends.page(principal.group_id, after[0] if after else None, limit),
                lambda backend: [backend.name],
            )

    async def update(self, principal: Principal, key: ResourceKey, edit: Edit) -> MemoryBackend:
        """Change name, configuration and disabled kinds of a backend to what `edit` makes of them.

        Raises:
            NotFound: the group has no backend of that id or name.
            AlreadyExists: the name is taken.
            InvalidArgument: the configuration contradicts itself.
            FailedPrecondition: one of its indexes has vectors of another model already.
            ResourceExhausted: the group's backends name as many databases as they may.
        """
        async with self._database.write() as connection:
            backends = MemoryBackendRepository(connection)
            await backends.hold(principal.group_id)
            present = await backends.get(principal.group_id, key)
            edited = edit(present)
            _check(edited)
            made = present.made_endpoint if _location(present) == _location(edited) else ""
            changed = replace(
                edited,
                id=present.id,
                group_id=present.group_id,
                made_endpoint=made,
                updated_at=utc_now(),
                active=present.active,
            )
            await _check_space(backends, changed, present)
            await self._check_databases(backends, changed, present)
            await backends.store(changed)
        self._indexes.forget(principal.group_id)
        return changed

    async def delete(self, principal: Principal, key: ResourceKey, successor: ResourceKey | None) -> None:
        """Remove a backend; the active one needs a successor.

        Raises:
            NotFound: the group has no backend, or no successor, of that id or name.
            FailedPrecondition: it is active and has no successor.
            InvalidArgument: it is its own successor.
        """
        async with self._database.write() as connection:
            backends = MemoryBackendRepository(connection)
            await backends.hold(principal.group_id)
            backend = await backends.get(principal.group_id, key)
            following = await _named(backends, principal.group_id, successor) if successor else None
            if following is not None and following.id == backend.id:
                raise InvalidArgument.field("successor_id", "a backend cannot be its own successor")
            if backend.active:
                if successor is None:
                    raise FailedPrecondition(
                        f'memory backend "{backend.name}" is the active one; name its successor in successor_id or '
                        'successor_name (the successor_id "default" stands for the embedded default)',
                        reason="RESOURCE_IN_USE",
                        metadata={
                            "resource": "memory backend",
                            "id": backend.id,
                            "used_by": f"group {principal.group_id}",
                        },
                    )
                await backends.activate(principal.group_id, following)
            await backends.remove(backend)
        self._indexes.forget(principal.group_id)

    async def activate(self, principal: Principal, key: ResourceKey) -> MemoryBackend | None:
        """Make a backend the active one and return it, or None for the embedded default.

        Raises:
            NotFound: the group has no backend of that id or name.
        """
        async with self._database.write() as connection:
            backends = MemoryBackendRepository(connection)
            await backends.hold(principal.group_id)
            backend = await _named(backends, principal.group_id, key)
            await backends.activate(principal.group_id, backend)
        self._indexes.forget(principal.group_id)
        return None if backend is None else replace(backend, active=True)

    async def provision(self, principal: Principal, key: ResourceKey) -> AsyncIterator[Step]:
        """Create what a backend needs and report progress; calling again continues.

        When something cannot be made, what this call made is removed again.

        Raises:
            FailedPrecondition: it has nothing to make, or something cannot be made.
            Unavailable: it takes longer than this call may.
        """
        backend = await self.get(principal, key)
        if backend.pgvector is not None:
            async for made in self._provision_database(backend, backend.pgvector):
                yield made
            return
        config = backend.databricks
        if config is None:
            raise FailedPrecondition("the embedded default needs no provisioning", reason="INVALID_FIELD")
        resources = self._indexes.repository(backend).resources
        planned = wanted_indexes(config)
        total = 1 + len(planned)
        started = time.monotonic()
        indexes: list[str] = []
        endpoints: list[str] = []
        own = 0

        def step(text: str, done: int) -> Step:
            # Things that existed before took no time; counting them would make the rest look instant.
            return Step(text, done, total, own / max(time.monotonic() - started, 1e-6))

        async def endpoint_made() -> None:
            endpoints.append(config.endpoint)
            await self._note_endpoint(backend, config.endpoint)

        try:
            async for text in make_endpoint(resources, config.endpoint, self._limits, endpoint_made, config.target_qps):
                yield step(text, 0)
            for done, (kind, name) in enumerate(planned, start=1):
                own = len(endpoints) + len(indexes)
                yield step(f"creating index {name}", done)
                dimension = config.space.dimension
                async for text in make_index(resources, name, kind, dimension, self._limits, indexes):
                    yield step(text, done)
        except (Unavailable, DeadlineExceeded):
            # It may just take longer: the next call continues from here.
            raise
        except CoxswainError as error:
            left = await asyncio.shield(remove_made(resources, indexes, endpoints))
            if endpoints and f"endpoint {config.endpoint}" not in left:
                await self._note_endpoint(backend, backend.made_endpoint)
            if left:
                error.message += f"; could not remove {', '.join(left)}"
            raise
        own = len(endpoints) + len(indexes)
        yield step("ready", total)

    async def _provision_database(self, backend: MemoryBackend, config: PgvectorConfig) -> AsyncIterator[Step]:
        started = time.monotonic()
        async for progress in self._databases.provision(backend, config):
            rate = progress.made / max(time.monotonic() - started, 1e-6)
            yield Step(progress.text, progress.done, progress.total, rate)

    async def _check_databases(
        self, backends: MemoryBackendRepository, changed: MemoryBackend, present: MemoryBackend | None
    ) -> None:
        """Keep a group from having connections made to any number of servers; what it names already it may keep."""
        own = _database_of(changed)
        if own is None or (present is not None and own == _database_of(present)):
            return
        await backends.hold(changed.group_id)
        configs = await backends.databases(changed.group_id, but=changed.id)
        others = {(config.host, config.port, config.database) for config in configs}
        if own not in others and len(others) >= self._most_databases:
            raise quota_exceeded(
                "databases",
                self._most_databases,
                len(others),
                f"the backends of your group name {len(others)} databases, and may name {self._most_databases} "
                "(COXSWAIN_MEMORY_PGVECTOR_DATABASES_PER_GROUP): delete a backend that is not needed "
                "(DeleteMemoryBackend), or use another schema of a database that is named already",
            )

    async def _note_endpoint(self, backend: MemoryBackend, made: str) -> None:
        async with self._database.write() as connection:
            await note_endpoint(MemoryBackendRepository(connection), backend, made)


async def note_endpoint(backends: MemoryBackendRepository, backend: MemoryBackend, made: str) -> None:
    """Note the endpoint that was created for a backend; "" when it was removed."""
    await backends.hold(backend.group_id)
    present = await backends.get(backend.group_id, ResourceKey(id=backend.id))
    await backends.store(replace(present, made_endpoint=made, updated_at=utc_now()))


async def _named(backends: MemoryBackendRepository, group_id: str, key: ResourceKey) -> MemoryBackend | None:
    """Return a backend, or None for the embedded default."""
    return None if key == EMBEDDED_DEFAULT else await backends.get(group_id, key)


async def _check_space(
    backends: MemoryBackendRepository, changed: MemoryBackend, present: MemoryBackend | None
) -> None:
    """Keep vectors of two models out of one index: they cannot be compared."""
    config = changed.databricks
    if config is None:
        return
    # Workspaces ignore the case of names.
    names = {name.lower() for _, name in wanted_indexes(config)}
    for registered in await backends.indexes(changed.group_id):
        backend, other = registered.backend, registered.backend.databricks
        if registered.name.lower() not in names or other is None or other.workspace_url != config.workspace_url:
            continue
        if other.space == config.space:
            continue
        if present is None or backend.id != present.id or await backends.noted_namespaces(backend, 1):
            raise embedding_mismatch_of_index(registered.name, other.space, config.space)


def _database_of(backend: MemoryBackend) -> tuple[str, int, str] | None:
    config = backend.pgvector
    return None if config is None else (config.host, config.port, config.database)


def _location(backend: MemoryBackend) -> tuple[str, str] | None:
    config = backend.databricks
    return None if config is None else (config.workspace_url, config.endpoint)


def _check(backend: MemoryBackend) -> None:
    config = backend.databricks
    if config is None:
        return
    names = {name.lower() for name in config.indexes.values()}
    if len(names) < len(config.indexes):
        raise InvalidArgument.field("backend.databricks.indexes", "each kind needs an index of its own")
