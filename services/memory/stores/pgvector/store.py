"""The default store's rows in a group's own database, where pgvector compares vectors."""

from collections.abc import Callable, Sequence
from datetime import datetime

from services.memory.domain.history import Keeping
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Record
from services.memory.domain.saves import SavedRecord
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.repositories.namespaces import NamespaceRepository
from services.memory.stores.pgvector.database import BackendDatabase
from services.memory.stores.pgvector.search import PgvectorSearch
from services.memory.stores.sql.statements import ROWS_IN_CHUNK, delete_some, owned
from services.memory.stores.sql.store import SqlRecordStore
from services.memory.tables import records


class PgvectorMemoryStore(SqlRecordStore):
    """Expired records and versions are not returned, and are removed with a later save of the same namespace."""

    def __init__(
        self, database: BackendDatabase, search: PgvectorSearch, sweep_due: Callable[[NamespaceKey], bool]
    ) -> None:
        """`sweep_due` says whether a save is to remove what has expired in its namespace."""
        super().__init__(database, search)
        self._backend_id = database.backend_id
        self._sweep_due = sweep_due

    @property
    def backend_id(self) -> str | None:
        """See `MemoryStore`."""
        return self._backend_id

    async def save(
        self,
        key: NamespaceKey,
        space: EmbeddingSpace,
        new: Sequence[Record],
        now: datetime,
        *,
        crew_name: str = "",
        near_copies: float = 0.0,
        keeping: Keeping | None = None,
    ) -> Sequence[SavedRecord]:
        """See `MemoryStore` and `KeepsHistory`."""
        saved = await super().save(key, space, new, now, crew_name=crew_name, near_copies=near_copies, keeping=keeping)
        if self._sweep_due(key):
            await self._remove_expired(key, now)
            if keeping:
                await self.history.prune(keeping.since(now), key.group_id)
        return saved

    async def _remove_expired(self, key: NamespaceKey, now: datetime) -> None:
        table = records[key.kind]
        expired = [owned(table, key), table.c.expires_us <= microseconds(now)]
        some = ROWS_IN_CHUNK
        while some == ROWS_IN_CHUNK:
            async with self._database.write() as connection:
                namespaces = NamespaceRepository(connection)
                await namespaces.hold(key.id)
                some = await delete_some(connection, table, expired)
                if some:
                    version = await namespaces.raise_version(key.id)
                    await namespaces.remove_records(key.id, version, some)
