"""Documents that a person has saved: removed, or kept without the person, when they are forgotten."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Aborted
from services.memory.domain.documents import SavedDocument, is_part_of
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import Record
from services.memory.filters import parts_of
from services.memory.repositories.documents import DocumentRepository
from services.memory.stores.base import MemoryStore
from services.memory.usecases.document_parts import (
    MOST_ATTEMPTS,
    ROWS_AT_ONCE,
    DocumentParts,
    is_of_alone,
    saved_all_the_time,
    saved_meanwhile,
    ties_of,
)


class DocumentSubjects:
    """The people that documents are tied to. Documents are taken as a whole, never by their parts."""

    def __init__(self, database: Database, parts: DocumentParts) -> None:
        self._database = database
        self._parts = parts

    async def forget(
        self, store: MemoryStore, namespace: NamespaceInfo, subject: str, *, dry_run: bool
    ) -> tuple[int, int, frozenset[str]]:
        """Remove the documents that are a subject's alone, and take the subject out of others.

        Return how many of their records are removed, how many are kept, and which documents are kept. With `dry_run`
        nothing is done.
        """
        key = namespace.key
        removed, kept, shared = 0, 0, set[str]()
        now = utc_now()
        after = ""
        while documents := await self._page(store, key, after, now):
            after = documents[-1].id
            for document in documents:
                ties = ties_of(document)
                if subject not in ties.subjects:
                    continue
                if dry_run:
                    of_alone, count = ties.are_of_alone(subject), document.part_count
                else:
                    of_alone, count = await self._forget_document(store, namespace, document.id, subject)
                removed += count if of_alone else 0
                kept += 0 if of_alone else count
                if dry_run or not of_alone:
                    shared.add(document.id)
        return removed, kept, frozenset(shared)

    async def _page(self, store: MemoryStore, key: NamespaceKey, after: str, now: datetime) -> Sequence[SavedDocument]:
        async with self._database.read() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            return await repository.page(after, ROWS_AT_ONCE, now)

    async def _forget_document(
        self, store: MemoryStore, namespace: NamespaceInfo, document_id: str, subject: str
    ) -> tuple[bool, int]:
        """Remove a document, or take a subject out of it, as it is now; return whether it is removed, and its parts."""
        for _ in range(MOST_ATTEMPTS):
            row = await self._parts.row(store, namespace.key, document_id)
            document = row.document if row else None
            if row is None or document is None or subject not in ties_of(document).subjects:
                return True, 0
            try:
                if is_of_alone(row, subject):
                    return True, await self._parts.remove(store, namespace.key, row, utc_now(), only_of=subject)
                await self._unlink(store, namespace, document, subject)
            except Aborted as error:
                if error.reason != "REVISION_MISMATCH":
                    raise
            else:
                return False, document.part_count
        raise saved_all_the_time(document_id)

    async def _unlink(
        self, store: MemoryStore, namespace: NamespaceInfo, document: SavedDocument, subject: str
    ) -> None:
        """Save the parts of a document without the subject, and then the document.

        Raises:
            Aborted: the document or one of its parts has been saved or removed meanwhile.
        """
        key, now = namespace.key, utc_now()
        left = tuple(name for name in document.subjects if name != subject)
        async for portion in store.read_through(key, parts_of(document.id), "", now, embeddings=True):
            parts = [replace(record, subjects=left) for _, record in portion if is_part_of(document, record)]
            if parts:
                await self._save_again(store, namespace, document, parts)
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            row = await repository.get(document.id, now, lock=True)
            if row is None or row.live.revision != document.revision:
                raise saved_meanwhile(document.id)
            await repository.remove_subject(document.id, subject)

    async def _save_again(
        self, store: MemoryStore, namespace: NamespaceInfo, document: SavedDocument, parts: Sequence[Record]
    ) -> None:
        """Save parts that were read, unless the document has been replaced since: they would come back."""
        key, now = namespace.key, utc_now()
        if store.compares_revisions:
            expecting = [replace(part, expected_revision=part.revision) for part in parts]
            await store.save(key, namespace.space, expecting, now)
            return
        async with self._database.write() as connection:
            # Of a process that is killed no part of an earlier revision stays.
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            if not await repository.expect_again(document, now):
                raise saved_meanwhile(document.id)
        await store.save(key, namespace.space, parts, now)
        try:
            await self._check_revision(store, key, document)
        except Aborted:
            # What has replaced them may have removed them before they were saved.
            await store.delete(key, [part.id for part in parts], EVERYTHING, now)
            raise

    async def _check_revision(self, store: MemoryStore, key: NamespaceKey, document: SavedDocument) -> None:
        row = await self._parts.row(store, key, document.id)
        if row is None or row.live.revision != document.revision:
            raise saved_meanwhile(document.id)
