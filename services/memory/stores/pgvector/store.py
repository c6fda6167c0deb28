"""The default store's rows in a group's own database, where pgvector compares vectors."""

from collections.abc import Sequence
from datetime import datetime

import structlog

from services.common.errors import CoxswainError
from services.memory.domain.history import Keeping
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Record
from services.memory.domain.saves import SavedRecord
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.stores.base import Switch
from services.memory.stores.documents import SteppedRemovals
from services.memory.stores.pgvector.database import BackendDatabase
from services.memory.stores.pgvector.search import PgvectorSearch
from services.memory.stores.sql.expiry import remove_expired_portion
from services.memory.stores.sql.statements import ROWS_IN_CHUNK, owned
from services.memory.stores.sql.store import SqlRecordStore
from services.memory.stores.sweep_turns import SweepTurns
from services.memory.tables import records, versions

logger = structlog.get_logger(__name__)


class PgvectorMemoryStore(SteppedRemovals, SqlRecordStore):
    """Expired records and versions are not returned, and are removed with later saves of the same namespace."""

    def __init__(self, database: BackendDatabase, search: PgvectorSearch, sweeps: SweepTurns) -> None:
        """`sweeps` says which saves remove what has expired in their namespace."""
        super().__init__(database, search)
        self._backend_id = database.backend_id
        self._sweeps = sweeps

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
        switch: Switch | None = None,
    ) -> Sequence[SavedRecord]:
        """See `MemoryStore` and `KeepsHistory`."""
        saved = await super().save(
            key, space, new, now, crew_name=crew_name, near_copies=near_copies, keeping=keeping, switch=switch
        )
        place = (self._backend_id, key.id)
        if self._sweeps.take(place) and not await self._sweep(key, now, keeping):
            self._sweeps.give_back(place)
        return saved

    async def _sweep(self, key: NamespaceKey, now: datetime, keeping: Keeping | None) -> bool:
        """Remove a portion of what has expired, and return whether that was the last one, as far as is known."""
        table = records[key.kind]
        try:
            removed = [await remove_expired_portion(self._database, table, key.id, owned(table, key), now)]
            if keeping:
                ended = keeping.since(now)
                if keeping.most_bytes is not None:
                    too_early = await self.history.ended_too_early(key.group_id, keeping.most_bytes)
                    ended = max(ended, too_early or ended)
                removed += [await self.history.prune_portion(kind, ended, key.group_id) for kind in versions]
        except CoxswainError as error:
            # The records are saved, and reads leave out expired ones in any case.
            logger.warning("expired_memories_not_removed", kind=key.kind.name, reason=error.reason)
            return True
        return all(some < ROWS_IN_CHUNK for some in removed)
