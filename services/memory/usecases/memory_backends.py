"""Where a group's memories lie: configurations, which one is active, and whether they work."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from services.common.clock import utc_now
from services.common.errors import CoxswainError, DeadlineExceeded, FailedPrecondition, InvalidArgument, Unavailable
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.memory.domain import EVERYTHING, MemoryBackend, MemoryKind
from services.memory.repositories.backends import Edit, MemoryBackendRepository, RequestKey, with_made_endpoint
from services.memory.stores.base import embedding_mismatch_of_index
from services.memory.stores.databricks.descriptions import ResourceState
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.provisioning import (
    Patience,
    index_faults,
    make_endpoint,
    make_index,
    remove_made,
    wanted_indexes,
)
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository

DEFAULT = "default"
"""The id that stands for the embedded default."""


class IndexRepositories(Protocol):
    """Opens the indexes of a backend."""

    def repository(self, backend: MemoryBackend) -> DatabricksVectorIndexRepository:
        """Return them."""
        ...

    def forget(self, group_id: str) -> None:
        """Look up which backend of a group is active anew: its backends have changed."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, what was found, and what to do about it (empty when it is well)."""

    subject: str
    finding: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return not self.remedy


@dataclass(frozen=True, slots=True)
class Step:
    """How far a backend has been provisioned."""

    text: str
    done: int
    total: int
    rate: float
    """Steps this call has done itself, in a second."""


class MemoryBackendUseCases:
    """Every operation concerns the calling principal's group."""

    def __init__(self, backends: MemoryBackendRepository, indexes: IndexRepositories, patience: Patience) -> None:
        self._backends = backends
        self._indexes = indexes
        self._patience = patience

    async def create(
        self, principal: Principal, draft: MemoryBackend, request_id: str, request_hash: str
    ) -> MemoryBackend:
        """Add a backend; a repeated request_id returns the first one's.

        Raises:
            AlreadyExists: the name is taken, or the request_id was used with another body.
            InvalidArgument: the configuration contradicts itself.
            FailedPrecondition: another backend of the group has vectors of another model in one of its indexes.
        """
        _check(draft)
        now = utc_now()
        backend = replace(draft, id=new_id(), group_id=principal.group_id, created_at=now, updated_at=now)
        await self._check_space(backend, None)
        request = RequestKey(principal.subject, request_id, request_hash) if request_id else None
        return await self._backends.create(backend, request)

    async def get(self, principal: Principal, backend_id: str) -> MemoryBackend:
        """Return a backend.

        Raises:
            NotFound: the group has none of that id.
        """
        return await self._backends.get(principal.group_id, backend_id)

    async def page(self, principal: Principal, limit: int, after_name: str | None) -> Sequence[MemoryBackend]:
        """Return backends by name."""
        return await self._backends.page(principal.group_id, limit, after_name)

    async def update(self, principal: Principal, backend_id: str, edit: Edit) -> MemoryBackend:
        """Change name, configuration and disabled kinds of a backend to what `edit` makes of them.

        Raises:
            NotFound: the group has none of that id.
            AlreadyExists: the name is taken.
            InvalidArgument: the configuration contradicts itself.
            FailedPrecondition: one of its indexes has vectors of another model already.
        """

        def checked(present: MemoryBackend) -> MemoryBackend:
            edited = edit(present)
            _check(edited)
            made = present.made_endpoint if _location(present) == _location(edited) else ""
            return replace(edited, id=present.id, group_id=present.group_id, made_endpoint=made, updated_at=utc_now())

        present = await self._backends.get(principal.group_id, backend_id)
        await self._check_space(checked(present), present)
        saved = await self._backends.change(principal.group_id, backend_id, checked)
        self._indexes.forget(principal.group_id)
        return saved

    async def _check_space(self, wanted: MemoryBackend, present: MemoryBackend | None) -> None:
        """Keep vectors of two models out of one index: they cannot be compared."""
        config = wanted.databricks
        if config is None:
            return
        names = {name for _, name in wanted_indexes(config)}
        for registered in await self._backends.indexes(wanted.group_id, None):
            backend, other = registered.backend, registered.backend.databricks
            if registered.name not in names or other is None or other.workspace_url != config.workspace_url:
                continue
            if other.space == config.space:
                continue
            written = (
                present is None
                or backend.id != present.id
                or await self._backends.remembered_namespaces(backend, 1, None)
            )
            if written:
                raise embedding_mismatch_of_index(registered.name, other.space, config.space)

    async def delete(self, principal: Principal, backend_id: str, successor_id: str) -> None:
        """Remove a backend; the active one needs a successor.

        Raises:
            NotFound: there is no such backend or successor.
            FailedPrecondition: it is active and has no successor.
        """
        if successor_id == backend_id:
            raise InvalidArgument.field("successor_id", "a backend cannot follow itself")
        successor = None if not successor_id else "" if successor_id == DEFAULT else successor_id
        await self._backends.delete(principal.group_id, backend_id, successor)
        self._indexes.forget(principal.group_id)

    async def activate(self, principal: Principal, backend_id: str) -> MemoryBackend | None:
        """Make a backend the active one and return it, or None for the embedded default.

        Raises:
            NotFound: the group has none of that id.
        """
        chosen = None if backend_id == DEFAULT else backend_id
        await self._backends.activate(principal.group_id, chosen)
        self._indexes.forget(principal.group_id)
        return None if chosen is None else await self._backends.get(principal.group_id, chosen)

    async def verify(self, principal: Principal, backend_id: str) -> Sequence[Check]:
        """Look at what a backend needs: endpoint, indexes, schema, and the rights of the caller's credential."""
        backend = await self._backends.get(principal.group_id, backend_id)
        config = backend.databricks
        if config is None:
            return [Check("embedded default", "is always there")]
        if backend.disabled:
            return [Check("configuration", "every kind is disabled: the embedded default is used instead")]
        repository = self._indexes.repository(backend)
        checks: list[Check] = []
        try:
            checks.append(await self._check_endpoint(repository, config.endpoint))
        except CoxswainError as error:
            checks.append(Check(f"endpoint {config.endpoint}", "cannot be looked at", error.message))
        stored = [(kind, name) for kind, name in wanted_indexes(config) if kind not in backend.disabled_kinds]
        for kind, name in stored:
            checks.extend(await self._check_index(repository, principal, kind, name, config.space.dimension))
        for kind in MemoryKind:
            if kind not in config.indexes and kind not in backend.disabled_kinds:
                checks.append(
                    Check(
                        f"kind {kind.name}",
                        "is neither disabled nor has it an index",
                        "name an index for it and call Provision, or add it to disabled_kinds",
                    )
                )
        return checks

    async def _check_endpoint(self, repository: DatabricksVectorIndexRepository, name: str) -> Check:
        endpoint = await repository.describe_endpoint()
        subject = f"endpoint {name}"
        match endpoint.state:
            case ResourceState.READY:
                return Check(subject, f"is {endpoint.detailed_state}")
            case ResourceState.NOT_FOUND:
                return Check(subject, "does not exist", "call Provision, which makes it")
            case ResourceState.PROVISIONING:
                return Check(subject, f"is {endpoint.detailed_state}", "wait; Provision shows the progress")
            case _:
                return Check(
                    subject,
                    f"is {endpoint.detailed_state}: {endpoint.message}",
                    "start it in the workspace, or remove it and call Provision",
                )

    async def _check_index(
        self,
        repository: DatabricksVectorIndexRepository,
        principal: Principal,
        kind: MemoryKind,
        name: str,
        dimension: int,
    ) -> list[Check]:
        subject = f"index {name}"
        try:
            description = await repository.describe_index(name)
            if description.state is ResourceState.NOT_FOUND:
                return [Check(subject, "does not exist", "call Provision, which makes it")]
            faults = index_faults(description, repository.endpoint, kind, dimension)
            if faults:
                remedy = "remove it and call Provision, or name another index in the backend"
                return [Check(subject, "; ".join(faults), remedy)]
            if description.state is not ResourceState.READY:
                return [
                    Check(subject, f"is {description.detailed_state}: {description.message}", "wait, then verify again")
                ]
            # Reading no row and removing one that cannot exist need the same rights as real work, and change nothing.
            owner = Owner(kind, principal.group_id, None)
            probe = np.zeros(dimension, dtype=np.float32)
            await repository.similarity_search(name, owner, probe, EVERYTHING, 1, utc_now(), embeddings=False)
            await repository.delete_records(name, [f"probe-{new_id()}"])
        except CoxswainError as error:
            return [Check(subject, "cannot be used", error.message)]
        return [Check(subject, f"is {description.detailed_state}, can be read and written")]

    async def provision(self, principal: Principal, backend_id: str) -> AsyncIterator[Step]:
        """Make what a backend needs and tell how far it has come; calling again goes on.

        When something cannot be made, what this call made is removed again.

        Raises:
            FailedPrecondition: it has nothing to make, or something cannot be made.
            Unavailable: it takes longer than this call may.
        """
        backend = await self._backends.get(principal.group_id, backend_id)
        config = backend.databricks
        if config is None:
            raise FailedPrecondition("the embedded default needs nothing to be made", reason="INVALID_FIELD")
        repository = self._indexes.repository(backend)
        wanted = wanted_indexes(config)
        total = 1 + len(wanted)
        started = time.monotonic()
        indexes: list[str] = []
        endpoints: list[str] = []
        own = 0

        def step(text: str, done: int) -> Step:
            # What was there already took no time, and would promise that the rest takes none.
            return Step(text, done, total, own / max(time.monotonic() - started, 1e-6))

        async def endpoint_made() -> None:
            endpoints.append(config.endpoint)
            await self._note_endpoint(backend, config.endpoint)

        try:
            async for text in make_endpoint(repository, config.endpoint, self._patience, endpoint_made):
                yield step(text, 0)
            for done, (kind, name) in enumerate(wanted, start=1):
                own = len(endpoints) + len(indexes)
                yield step(f"making index {name}", done)
                dimension = config.space.dimension
                async for text in make_index(repository, name, kind, dimension, self._patience, indexes):
                    yield step(text, done)
        except (Unavailable, DeadlineExceeded):
            # It may just take longer: the next call goes on from here.
            raise
        except CoxswainError as error:
            left = await asyncio.shield(remove_made(repository, indexes, endpoints))
            if endpoints and f"endpoint {config.endpoint}" not in left:
                await self._note_endpoint(backend, backend.made_endpoint)
            if left:
                error.message += f"; could not remove {', '.join(left)}"
            raise
        own = len(endpoints) + len(indexes)
        yield step("ready", total)

    async def _note_endpoint(self, backend: MemoryBackend, made: str) -> None:
        await self._backends.change(backend.group_id, backend.id, with_made_endpoint(made, utc_now()))


def _location(backend: MemoryBackend) -> tuple[str, str] | None:
    config = backend.databricks
    return None if config is None else (config.workspace_url, config.endpoint)


def _check(backend: MemoryBackend) -> None:
    config = backend.databricks
    if config is None:
        return
    names = list(config.indexes.values())
    if len(set(names)) < len(names):
        raise InvalidArgument.field("backend.databricks.indexes", "each kind needs an index of its own")
