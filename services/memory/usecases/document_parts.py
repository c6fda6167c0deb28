"""Records that are parts of documents: none is there without its document, whichever way it was saved or removed."""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import FailedPrecondition, FieldViolation
from services.common.identity.principal import Principal
from services.memory.domain.documents import (
    SavedDocument,
    brought_back,
    is_part_of,
    named_documents,
    part_ids,
)
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import Document, Record
from services.memory.domain.subjects import Ties
from services.memory.filters import parts_of
from services.memory.repositories.documents import DocumentRepository, DocumentRow
from services.memory.stores.base import MemoryStore

_ROWS_AT_ONCE = 500


class DocumentParts:
    """What calls that know nothing of documents do to their parts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def admit(self, principal: Principal, store: MemoryStore, records: Sequence[Record]) -> None:
        """Let records be saved that are parts of documents, and bring back the documents of those from elsewhere.

        Raises:
            FailedPrecondition: a record names a document that is there, and is none of its parts.
        """
        ids = named_documents(records)
        if not ids:
            return
        now = utc_now()
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, principal.group_id, store.backend_id)
            known = await repository.some(ids, now)
            changed: dict[str, SavedDocument] = {}
            for position, record in enumerate(records):
                body = record.body
                if not isinstance(body, Document) or not body.parent_document_id:
                    continue
                document = known.get(body.parent_document_id)
                if document is None:
                    document = brought_back(record, principal.subject, now)
                    if document is None or not is_part_of(document, record):
                        continue
                    known[document.id] = document
                elif not is_part_of(document, record):
                    raise _no_part(f"records[{position}].document.parent_document_id", document)
                changed[document.id] = replace(document, fingerprint="")
            for document in changed.values():
                await repository.put(document)

    async def clear(self, store: MemoryStore, key: NamespaceKey) -> int:
        """Remove the records of all documents and the documents that were there, and return how many records."""
        there: list[tuple[str, int]] = []
        async with self._database.read() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            while some := await repository.ids(there[-1][0] if there else "", _ROWS_AT_ONCE):
                there += some
        removed = await store.clear(key)
        for document_id, last_revision in there:
            async with self._database.write() as connection:
                await DocumentRepository(connection, key.group_id, store.backend_id).remove(document_id, last_revision)
        return removed

    async def remove(self, store: MemoryStore, key: NamespaceKey, row: DocumentRow, now: datetime) -> int:
        """Remove a document with all that may be there of it, and return how many records that was."""

        async def switch(connection: AsyncConnection | None) -> None:
            async with joined(self._database, connection) as own:
                await DocumentRepository(own, key.group_id, store.backend_id).remove(row.id)

        known = [record_id for parts in (row.live, *row.stale) for record_id in part_ids(row.id, parts)]
        return await store.remove_document(key, row.id, known, now, switch)

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
                ties = Ties(document.subjects, "", json.loads(document.metadata).get("subject"))
                if subject not in ties.subjects:
                    continue
                if ties.are_of_alone(subject):
                    removed += document.part_count if dry_run else await self._remove(store, key, document, now)
                    shared |= {document.id} if dry_run else set()
                    continue
                kept += document.part_count
                shared.add(document.id)
                if not dry_run:
                    await self._unlink(store, namespace, document, subject)
        return removed, kept, frozenset(shared)

    async def _page(self, store: MemoryStore, key: NamespaceKey, after: str, now: datetime) -> Sequence[SavedDocument]:
        async with self._database.read() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            return await repository.page(after, _ROWS_AT_ONCE, now)

    async def _remove(self, store: MemoryStore, key: NamespaceKey, document: SavedDocument, now: datetime) -> int:
        async with self._database.read() as connection:
            row = await DocumentRepository(connection, key.group_id, store.backend_id).get(document.id, now)
        return 0 if row is None else await self.remove(store, key, row, now)

    async def _unlink(
        self, store: MemoryStore, namespace: NamespaceInfo, document: SavedDocument, subject: str
    ) -> None:
        """Save the parts of a document without the subject, and then the document."""
        key, now = namespace.key, utc_now()
        left = tuple(name for name in document.subjects if name != subject)
        async for portion in store.read_through(key, parts_of(document.id), "", now, embeddings=True):
            parts = [replace(record, subjects=left) for _, record in portion if is_part_of(document, record)]
            if parts:
                await store.save(key, namespace.space, parts, now)
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            await repository.set_subjects(document.id, left)


@contextlib.asynccontextmanager
async def joined(database: Database, connection: AsyncConnection | None) -> AsyncIterator[AsyncConnection]:
    """Yield a transaction that is open already, or one of its own."""
    if connection is not None:
        yield connection
        return
    async with database.write() as own:
        yield own


def _no_part(path: str, document: SavedDocument) -> FailedPrecondition:
    what = (
        f'the document "{document.id}" is there at revision {document.revision}, and this is none of its parts: '
        "save the whole file with SaveDocument, or remove the document with DeleteDocument first"
    )
    return FailedPrecondition(what, reason="INVALID_FIELD", violations=(FieldViolation(path, what),))
