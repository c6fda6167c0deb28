"""Documents of which something has begun that never ended, and those that have expired."""

import asyncio
from dataclasses import replace

import structlog

from services.common.background import BackgroundTasks
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Aborted, CoxswainError
from services.common.grpc.call import outlast_caller
from services.memory.domain.documents import PartsWritten, SavedDocument, brought_back, is_part_of, part_ids
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind
from services.memory.filters import parts_of
from services.memory.repositories.documents import DocumentRepository, DocumentRow, due_here
from services.memory.stores.base import MemoryStore
from services.memory.stores.documents import remove_others
from services.memory.usecases.document_parts import DocumentParts

logger = structlog.get_logger(__name__)

_DOCUMENTS_AT_ONCE = 5
_SWEPT_AT_ONCE = 100
_SECONDS = 60.0
"""After which repairs are given up; a later save goes on with them."""


class DocumentRepairs:
    """Leaves of what never ended, or has expired, no document without parts and no part without its document.

    In a backend, where only a caller's credential reaches parts, some documents after each save; nobody waits for it.
    """

    def __init__(self, database: Database, parts: DocumentParts, background: BackgroundTasks) -> None:
        self._database = database
        self._parts = parts
        self._background = background
        self._running: set[tuple[str, str | None]] = set()

    def start(self, store: MemoryStore, key: NamespaceKey) -> None:
        """Repair some of a group's documents in a store.

        It goes on as the caller when the call has ended, once at a time for a group and store.
        """
        running = (key.group_id, store.backend_id)
        # Then the sweep repairs all.
        if store.removes_at_once or running in self._running:
            return
        self._running.add(running)
        self._background.start(self._repair_some(store, key)).add_done_callback(
            lambda _: self._running.discard(running)
        )

    async def _repair_some(self, store: MemoryStore, key: NamespaceKey) -> None:
        outlast_caller()
        try:
            async with asyncio.timeout(_SECONDS):
                async with self._database.read() as connection:
                    repository = DocumentRepository(connection, key.group_id, store.backend_id)
                    rows = await repository.due(utc_now(), _DOCUMENTS_AT_ONCE)
                for row in rows:
                    await self._repair_due(store, key, row)
        except Exception as error:  # noqa: BLE001 - nobody is left to handle it, and a later save tries again
            reason = error.reason if isinstance(error, CoxswainError) else type(error).__name__
            logger.warning("documents_not_repaired", reason=reason)

    async def sweep(self, default: MemoryStore) -> None:
        """Repair some documents of all groups in the default store, which needs nobody's credential.

        Raises:
            Exception: the first failure of some that could not be repaired; it is tried again the next time.
        """
        async with self._database.read() as connection:
            rows = await due_here(connection, utc_now(), _SWEPT_AT_ONCE)
        failures: list[Exception] = []
        for group_id, row in rows:
            try:
                await self._repair_due(default, NamespaceKey(group_id, "", MemoryKind.DOCUMENT), row)
            except Exception as error:  # noqa: BLE001 - raised below
                # It must not keep the others from theirs.
                failures.append(error)
        if failures:
            raise failures[0]

    async def _repair_due(self, store: MemoryStore, key: NamespaceKey, row: DocumentRow) -> None:
        async with self._database.write() as connection:
            # It waits its turn again: one that cannot be repaired, or takes too long, does not come first each time.
            begun = await DocumentRepository(connection, key.group_id, store.backend_id).begin_repair(row, utc_now())
        if begun is not None:
            await self.repair(store, key, begun)

    async def repair(self, store: MemoryStore, key: NamespaceKey, row: DocumentRow) -> None:
        """Let a document be what the store has of it, or remove what is left; what others save meanwhile stays."""
        try:
            document = await self._stored(store, key, row)
            if document is None:
                await self._parts.remove(store, key, row, utc_now(), only_unexpected=True)
            elif await self._let_count(store, key, document, row):
                await self._remove_others(store, key, document, row)
        except Aborted as error:
            if error.reason != "REVISION_MISMATCH":
                raise

    async def _stored(self, store: MemoryStore, key: NamespaceKey, row: DocumentRow) -> SavedDocument | None:
        """Return the document of which the store has parts; None if it has expired, or none is to be there."""
        wanted, found = row.document or row.pending, dict[int, SavedDocument]()
        if wanted is None:
            return None
        async for portion in store.read_through(key, parts_of(row.id), "", utc_now(), embeddings=False):
            for _, record in portion:
                document = brought_back(record, "", utc_now())
                if document is not None and is_part_of(document, record):
                    found.setdefault(document.revision, replace(document, subjects=record.subjects))
        if wanted.revision in found:
            return wanted
        # One transaction leaves the parts of the revision before, which are all there.
        return found[max(found)] if found and row.document is not None and store.replaces_at_once else None

    async def _let_count(
        self, store: MemoryStore, key: NamespaceKey, document: SavedDocument, row: DocumentRow
    ) -> bool:
        """Let a document be there, and return whether it is, unless others have saved or removed it meanwhile."""
        if row.live.revision == document.revision:
            return True
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            return await repository.restore(document, row)

    async def _remove_others(
        self, store: MemoryStore, key: NamespaceKey, document: SavedDocument, row: DocumentRow
    ) -> None:
        kept = set(part_ids(row.id, [PartsWritten(document.revision, document.part_count)]))
        written = [parts for parts in (row.live, *row.stale) if parts.revision != document.revision]
        if written:
            stale = part_ids(row.id, written)
            await remove_others(store, key, row.id, row.last_revision, stale, utc_now(), kept)
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            await repository.settle(row.id, document.revision, row.last_revision, utc_now())
