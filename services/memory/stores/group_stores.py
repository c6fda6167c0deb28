"""Which store holds a group's memories."""

from collections.abc import Mapping, Sequence

from cachetools import LRUCache

from services.common.cache import AsyncCache
from services.common.db.database import Database
from services.common.errors import FailedPrecondition, FieldViolation
from services.memory.domain.backends import MemoryBackend
from services.memory.domain.records import MemoryKind
from services.memory.repositories.memory_backends import MemoryBackendRepository, RemoteNamespace
from services.memory.stores.base import MemoryStore
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.endpoint_types import EndpointTypes, Location
from services.memory.stores.databricks.listed_positions import ListedPositions
from services.memory.stores.databricks.recent_writes import RecentWrites
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.store import DatabricksMemoryStore, NamespaceNotes
from services.memory.stores.pgvector.stores import PgvectorStores
from services.memory.stores.sweep_turns import SweepTurns

ACTIVE_SECONDS = 1.0
"""How long after ActivateMemoryBackend other replicas may still use the backend before."""

_GROUPS_KEPT = 10_000
_NOTES_KEPT = 10_000
_LISTED_SECONDS = 300.0
"""How long the order of a list is remembered for its next page."""


class BackendStores:
    """Follows each group's active backend; without one, or with one that stores nothing, the default is used."""

    def __init__(
        self,
        default: MemoryStore,
        database: Database,
        client: VectorSearchClient,
        pgvector: PgvectorStores,
        *,
        pause_seconds: float,
        settle_seconds: float,
        sweep_seconds: float,
        private_ids: bytes,
    ) -> None:
        """`pause_seconds` is how long to wait for removals in a vector store to be seen before looking again,
        `settle_seconds` how long what is read there may be older than what was written, `sweep_seconds` how often a
        crew's saves remove what has expired there, `private_ids` the key of the ids that private records get there.
        """
        self.default = default
        """That of groups without a backend."""
        self._database = database
        self._client = client
        self._pgvector = pgvector
        self._private_ids = private_ids
        self._pause_seconds = pause_seconds
        self._endpoint_types = EndpointTypes()
        self._recent_writes = RecentWrites(settle_seconds)
        self._listed = ListedPositions(_LISTED_SECONDS)
        self._noted: LRUCache[tuple[str, RemoteNamespace], bool] = LRUCache(_NOTES_KEPT)
        self._active: AsyncCache[str, MemoryBackend | None] = AsyncCache(_GROUPS_KEPT, ACTIVE_SECONDS)
        self._sweeps = SweepTurns(sweep_seconds)

    async def of(self, group_id: str, kind: MemoryKind) -> MemoryStore:
        """Return the store of a group for a kind.

        Raises:
            FailedPrecondition: the group's backend does not store the kind.
        """
        backend = await self._active_backend(group_id)
        if backend is None or backend.disabled:
            return self.default
        if kind in backend.disabled_kinds:
            raise FailedPrecondition(
                f'memory backend "{backend.name}" has {kind.name} disabled: enable it (UpdateMemoryBackend) or '
                "activate another backend",
                reason="INVALID_FIELD",
                violations=(FieldViolation("namespace.kind", "the active backend has it disabled"),),
            )
        return self._store(backend)

    async def any_of(self, group_id: str) -> MemoryStore:
        """Return the group's store without regard to the kinds it stores."""
        backend = await self._active_backend(group_id)
        return self.default if backend is None or backend.disabled else self._store(backend)

    async def all_of(self, group_id: str) -> Sequence[MemoryStore]:
        """Return every store that calls may reach memories of a group in: the default one, and its active backend's."""
        active = await self.any_of(group_id)
        return [self.default] if active is self.default else [self.default, active]

    def repository(self, backend: MemoryBackend) -> DatabricksVectorIndexRepository:
        """Return the indexes of a Databricks backend."""
        assert backend.databricks is not None
        location = Location(backend.databricks.workspace_url, backend.databricks.endpoint)
        return DatabricksVectorIndexRepository(
            self._client, location, self._endpoint_types, self._recent_writes, backend.databricks.scores
        )

    def forget(self, group_id: str) -> None:
        """Look up the group's active backend again."""
        self._active.forget(group_id)

    async def _active_backend(self, group_id: str) -> MemoryBackend | None:
        async def read() -> MemoryBackend | None:
            async with self._database.read() as connection:
                return await MemoryBackendRepository(connection).active(group_id)

        return await self._active.get(group_id, read)

    def _store(self, backend: MemoryBackend) -> MemoryStore:
        if backend.pgvector is not None:
            return self._pgvector.store(backend)
        if backend.embedded:
            return self.default

        async def note(written: RemoteNamespace) -> None:
            known = (backend.id, written)
            if known in self._noted:
                return
            async with self._database.write() as connection:
                await MemoryBackendRepository(connection).note_namespace(backend, written)
            self._noted[known] = True

        async def page(limit: int, after: tuple[str, MemoryKind] | None) -> Sequence[RemoteNamespace]:
            async with self._database.read() as connection:
                return await MemoryBackendRepository(connection).noted_namespaces(backend, limit, after)

        async def names(memory_ids: Sequence[str]) -> Mapping[tuple[str, MemoryKind], str]:
            async with self._database.read() as connection:
                return await MemoryBackendRepository(connection).names_of(backend, memory_ids)

        def sweep_due(memory_id: str) -> bool:
            return self._sweeps.take((backend.id, memory_id))

        notes = NamespaceNotes(note, page, names, sweep_due)
        return DatabricksMemoryStore(
            self.repository(backend),
            backend,
            notes,
            listed=self._listed,
            pause_seconds=self._pause_seconds,
            private_ids=self._private_ids,
        )
