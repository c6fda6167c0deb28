"""Documents that have expired where only a caller's credential reaches their parts."""

import asyncio

import structlog

from services.common.background import BackgroundTasks
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Aborted, CoxswainError
from services.common.grpc.call import outlast_caller
from services.memory.domain.namespaces import NamespaceKey
from services.memory.repositories.documents import DocumentRepository
from services.memory.stores.base import MemoryStore
from services.memory.usecases.document_parts import DocumentParts

logger = structlog.get_logger(__name__)

_DOCUMENTS_AT_ONCE = 5
_SECONDS = 60.0
"""After which a removal is given up; a later save goes on with it."""


class ExpiredDocuments:
    """Removes what the sweep cannot, some documents after each save: nobody waits for it."""

    def __init__(self, database: Database, parts: DocumentParts, background: BackgroundTasks) -> None:
        self._database = database
        self._parts = parts
        self._background = background
        self._running: set[tuple[str, str | None]] = set()

    def start_removing(self, store: MemoryStore, key: NamespaceKey) -> None:
        """Remove some of a group's documents that have expired in a store, and rests of removals that have failed.

        It goes on as the caller when the call has ended, once at a time for a group and store.
        """
        running = (key.group_id, store.backend_id)
        # Then the sweep removes all.
        if store.removes_at_once or running in self._running:
            return
        self._running.add(running)
        self._background.start(self._remove(store, key)).add_done_callback(lambda _: self._running.discard(running))

    async def _remove(self, store: MemoryStore, key: NamespaceKey) -> None:
        outlast_caller()
        try:
            async with asyncio.timeout(_SECONDS):
                await self._remove_some(store, key)
        except Exception as error:  # noqa: BLE001 - nobody is left to handle it, and a later save tries again
            reason = error.reason if isinstance(error, CoxswainError) else type(error).__name__
            logger.warning("expired_documents_not_removed", reason=reason)

    async def _remove_some(self, store: MemoryStore, key: NamespaceKey) -> None:
        now = utc_now()
        async with self._database.read() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            rows = await repository.expired(now, _DOCUMENTS_AT_ONCE)
        for row in rows:
            try:
                await self._parts.remove(store, key, row, utc_now())
            except Aborted as error:
                if error.reason != "REVISION_MISMATCH":
                    raise
