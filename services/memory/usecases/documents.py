"""Documents that are saved as a whole: received, read, split, embedded and stored."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import CoxswainError, FieldViolation, InvalidArgument, NotFound, Unavailable
from services.common.identity.principal import Principal
from services.common.paging import Page, Pager
from services.common.reading.reader import CannotRead, Congested
from services.memory.domain.documents import PartsWritten, SavedDocument, part_id, part_ids
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Document, MemoryKind, Record
from services.memory.domain.vectors import EmbeddingSpace, Vector, embedding_mismatch
from services.memory.embedding import Embedder
from services.memory.filters import parts_of
from services.memory.parsing.media_types import media_type_of
from services.memory.parsing.reader import DocumentReader, ReadDocument
from services.memory.repositories.documents import DocumentRepository, DocumentRow
from services.memory.stores.base import MemoryStore
from services.memory.stores.documents import remove_parts
from services.memory.stores.group_stores import BackendStores
from services.memory.usecases.document_drafts import (
    DocumentUpload,
    draft_of,
    fingerprint_of,
    named_type_of,
    records_of,
    splitting_of,
)
from services.memory.usecases.document_parts import DocumentParts, is_whole, joined, saved_meanwhile
from services.memory.usecases.document_repairs import DocumentRepairs
from services.memory.usecases.document_uploads import RETRY_SECONDS, UploadedFile, UploadLimits, Uploads
from services.memory.usecases.namespaces import namespace_key
from services.memory.usecases.record_quota import RecordQuota

_REPORTED_BYTES = 256 * 1024
"""How many bytes arrive between two responses that say so."""
_EMBEDDED_AT_ONCE = 100
_SEEN_LATE = timedelta(minutes=1)
"""How long an index may show less than was written to it."""
_DOCUMENTS = Pager("documents")


class SaveStage(StrEnum):
    """How far a save has come."""

    RECEIVING = "RECEIVING"
    SPLIT = "SPLIT"
    EMBEDDING = "EMBEDDING"
    STORED = "STORED"


@dataclass(frozen=True, slots=True)
class SaveProgress:
    """How far a save has come, with figures, and at its end with the document."""

    stage: SaveStage
    received_bytes: int
    part_count: int = 0
    embedded_parts: int = 0
    document: SavedDocument | None = None
    unchanged: bool = False


class Documents:
    """The documents of the calling principal's group, on the backend that is active for it."""

    def __init__(
        self,
        database: Database,
        stores: BackendStores,
        embedder: Embedder,
        reader: DocumentReader,
        parts: DocumentParts,
        repairs: DocumentRepairs,
        limits: UploadLimits,
        quota: RecordQuota,
        *,
        default_model: str,
    ) -> None:
        """`default_model` embeds the first document of a group; empty means the default of models."""
        self._database = database
        self._stores = stores
        self._embedder = embedder
        self._reader = reader
        self._parts = parts
        self._repairs = repairs
        self._limits = limits
        self._quota = quota
        self._uploads = Uploads(limits)
        self._default_model = default_model

    async def save(
        self, principal: Principal, upload: DocumentUpload, chunks: AsyncIterator[bytes]
    ) -> AsyncGenerator[SaveProgress, None]:
        """Save a document, and yield how far that has come.

        Raises:
            InvalidArgument: the file cannot be read, or is too large, or what is said of it is wrong.
            FailedPrecondition: the group's documents are embedded with another model.
            Aborted: another call has saved the document meanwhile.
            Unavailable: too many documents are being saved.
            ResourceExhausted: QUOTA_EXCEEDED, the group would have more records than it may.
            DeadlineExceeded: the file comes too slowly.
        """
        chunk, overlap = splitting_of(upload)
        named_type, charset = named_type_of(upload)
        key = namespace_key(principal, "", MemoryKind.DOCUMENT)
        store = await self._stores.of(principal.group_id, MemoryKind.DOCUMENT)
        existing = await store.space(key)
        if existing and upload.embedding_model not in ("", existing.model):
            raise embedding_mismatch(existing, upload.embedding_model, 0)
        self._check_size(upload.expected_bytes, "header.expected_bytes")
        with self._uploads.place(principal.group_id):
            with self._uploads.file(principal.group_id) as file:
                async for received in self._received(upload, chunks, file):
                    yield SaveProgress(SaveStage.RECEIVING, received)
                size, content_hash = len(file.content), file.sha256.hexdigest()
                media_type = named_type or media_type_of(upload.file_name, bytes(file.content[:1024]))
                fingerprint = fingerprint_of(upload, media_type, charset, content_hash, chunk, overlap)
                same = await self._unchanged(principal, store, key, upload.id, fingerprint)
                if same is not None:
                    self._repairs.start(store, key)
                    yield SaveProgress(SaveStage.STORED, size, same.part_count, document=same, unchanged=True)
                    return
                read = await self._read(principal, bytes(file.content), media_type, charset, chunk, overlap)
            count = len(read.parts)
            yield SaveProgress(SaveStage.SPLIT, size, count)
            draft = replace(
                draft_of(principal, upload, read, media_type, fingerprint),
                size_bytes=size,
                content_hash=content_hash,
                chunk_characters=chunk,
                overlap_characters=overlap,
            )

            async def replaced() -> int:
                return (await store.count(key, parts_of(draft.id), utc_now())).count

            # Before they are embedded, which costs most.
            await self._quota.check(principal, store, count, replaced)
            records = await asyncio.to_thread(records_of, draft, read)
            space = existing
            for start in range(0, count, _EMBEDDED_AT_ONCE):
                some = records[start : start + _EMBEDDED_AT_ONCE]
                space = await self._embed(some, space, upload.embedding_model)
                yield SaveProgress(SaveStage.EMBEDDING, size, count, min(start + len(some), count))
            assert space is not None
            async with self._quota.room_for(principal, store, count, replaced):
                document = await self._store(principal, store, key, space, draft, records)
        self._repairs.start(store, key)
        yield SaveProgress(SaveStage.STORED, size, count, count, document)

    async def get(self, principal: Principal, document_id: str) -> SavedDocument:
        """Return a document.

        Raises:
            NotFound: there is none of that id.
        """
        store = await self._stores.of(principal.group_id, MemoryKind.DOCUMENT)
        row = await self._row(principal, store, document_id)
        if row is None or row.document is None:
            raise NotFound.of("document", document_id)
        return row.document

    async def page(self, principal: Principal, requested_size: int, page_token: str) -> Page[SavedDocument]:
        """Return one page of the group's documents, sorted by id.

        Raises:
            InvalidArgument: the token is not of this listing.
        """
        store = await self._stores.of(principal.group_id, MemoryKind.DOCUMENT)

        async def read(after: list[Any] | None, limit: int) -> Sequence[SavedDocument]:
            async with self._database.read() as connection:
                repository = DocumentRepository(connection, principal.group_id, store.backend_id)
                return await repository.page(after[0] if after else "", limit, utc_now())

        filters = {"group": principal.group_id, "backend": store.backend_id or ""}
        return await _DOCUMENTS.page(requested_size, page_token, filters, read, lambda one: [one.id], _bytes_of)

    async def delete(self, principal: Principal, document_id: str) -> int:
        """Remove a document with its parts, and return how many these were.

        Raises:
            NotFound: there is none of that id.
            Aborted: another call has saved it meanwhile.
        """
        store = await self._stores.of(principal.group_id, MemoryKind.DOCUMENT)
        row = await self._row(principal, store, document_id)
        if row is None:
            raise NotFound.of("document", document_id)
        key = namespace_key(principal, "", MemoryKind.DOCUMENT)
        removed = await self._parts.remove(store, key, row, utc_now())
        self._repairs.start(store, key)
        if row.document is None:
            # What a save has left that never ended.
            raise NotFound.of("document", document_id)
        return removed

    async def close(self) -> None:
        """End the processes that read."""
        await self._reader.close()

    async def _received(
        self, upload: DocumentUpload, chunks: AsyncIterator[bytes], file: UploadedFile
    ) -> AsyncIterator[int]:
        """Yield now and then how many bytes have come; all of them are in the file at the end."""
        reported = 0
        async for some in self._uploads.timely(chunks):
            self._check_size(len(file.content) + len(some), "chunk")
            file.add(some)
            if len(file.content) >= reported + _REPORTED_BYTES:
                reported = len(file.content)
                yield reported
        size = len(file.content)
        if upload.expected_bytes and size != upload.expected_bytes:
            raise InvalidArgument.field(
                "header.expected_bytes",
                f"{upload.expected_bytes:,} bytes were expected and {size:,} have come; send the whole file again",
            )
        if not size:
            raise InvalidArgument.field("chunk", "is missing: send the bytes of the file after the header")

    def _check_size(self, size: int, path: str) -> None:
        most = self._limits.document_bytes
        if size > most:
            raise InvalidArgument.field(
                path,
                f"a document may have {most:,} bytes; divide it, or have the operator raise "
                "COXSWAIN_MEMORY_DOCUMENT_BYTES",
            )

    async def _row(self, principal: Principal, store: MemoryStore, document_id: str) -> DocumentRow | None:
        async with self._database.read() as connection:
            repository = DocumentRepository(connection, principal.group_id, store.backend_id)
            return await repository.get(document_id, utc_now())

    async def _unchanged(
        self, principal: Principal, store: MemoryStore, key: NamespaceKey, document_id: str, fingerprint: str
    ) -> SavedDocument | None:
        """Return the document if it is as a save would make it, with all of its parts."""
        row = await self._row(principal, store, document_id)
        document = row.document if row else None
        if document is None or document.fingerprint != fingerprint:
            return None
        late = not store.compares_revisions and utc_now() - document.updated_at < _SEEN_LATE
        if not late and not await is_whole(store, key, document):
            return None
        if principal.subject in document.subjects:
            return document
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, principal.group_id, store.backend_id)
            return await repository.add_subject(document_id, document.revision, principal.subject, utc_now())

    async def _read(
        self, principal: Principal, content: bytes, media_type: str, charset: str, chunk: int, overlap: int
    ) -> ReadDocument:
        try:
            return await self._reader.read(principal.group_id, content, media_type, charset, chunk, overlap)
        except Congested as error:
            raise Unavailable(str(error), reason="OVERLOADED", retry_after=RETRY_SECONDS) from error
        except CannotRead as error:
            raise InvalidArgument(
                f"the file cannot be read as {media_type}: {error}",
                reason="DOCUMENT_UNREADABLE",
                metadata={"media_type": media_type},
                violations=(FieldViolation("chunk", str(error)),),
            ) from error

    async def _embed(self, records: Sequence[Record], space: EmbeddingSpace | None, model: str) -> EmbeddingSpace:
        wanted = space.model if space else model or self._default_model
        embedded = await self._embedder.embed(wanted, [record.text for record in records])
        if space and embedded.space != space:
            raise embedding_mismatch(space, embedded.space.model, embedded.space.dimension)
        vectors: Sequence[Vector] = embedded.vectors
        for record, vector in zip(records, vectors, strict=True):
            record.embedding = vector
        return embedded.space

    async def _store(
        self,
        principal: Principal,
        store: MemoryStore,
        key: NamespaceKey,
        space: EmbeddingSpace,
        draft: SavedDocument,
        records: Sequence[Record],
    ) -> SavedDocument:
        now = utc_now()
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, principal.group_id, store.backend_id)
            revision, before = await repository.claim(draft.id, len(records), now)
        created = before.document.created_at if before.document else now
        document = replace(draft, revision=revision, embedding_model=space.model, created_at=created, updated_at=now)
        for record in records:
            body = record.body
            assert isinstance(body, Document)
            record.id = part_id(document.id, revision, body.chunk_index)
            body.document_revision, body.updated_at = revision, now

        async def switch(connection: AsyncConnection | None) -> None:
            async with joined(self._database, connection) as own:
                repository = DocumentRepository(own, principal.group_id, store.backend_id)
                if not await repository.switch(document, gone=connection is not None):
                    raise saved_meanwhile(document.id)

        stale = part_ids(document.id, before.written_before(revision))
        try:
            await store.replace_document(key, space, document.id, records, stale, now, switch)
        except CoxswainError:
            # A cancelled call has no time for it: then the next save or removal does it.
            with contextlib.suppress(CoxswainError):
                await self._undo(store, key, document)
            raise
        if not store.removes_at_once:
            async with self._database.write() as connection:
                repository = DocumentRepository(connection, principal.group_id, store.backend_id)
                await repository.settle(document.id, revision, revision, utc_now())
        return document

    async def _undo(self, store: MemoryStore, key: NamespaceKey, document: SavedDocument) -> None:
        """Remove what a save that failed has left, unless it counts: what failed may be what comes after the switch."""
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            row = await repository.get(document.id, utc_now(), lock=True)
        if row is not None and row.live.revision == document.revision:
            # What another save has begun since is its own to end; what it leaves is looked at in a day.
            if store.replaces_at_once and row.last_revision == document.revision:
                # The transaction with its parts may have failed after the one in which it was switched to.
                await self._repairs.repair(store, key, row)
            return
        if not store.replaces_at_once:
            written = PartsWritten(document.revision, document.part_count)
            await remove_parts(store, key, part_ids(document.id, [written]), utc_now())
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            await repository.withdraw(document.id, document.revision, document.updated_at)


def _bytes_of(document: SavedDocument) -> int:
    texts = (document.title, document.source, document.summary, *document.agent_ids)
    return 512 + sum(len(text.encode()) for text in texts) + 8 * len(document.metadata.encode())
