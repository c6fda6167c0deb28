"""Documents that are saved as a whole: received, read, split, embedded and stored."""

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Aborted, FieldViolation, InvalidArgument, NotFound, Unavailable
from services.common.identity.principal import Principal
from services.common.paging import Page, Pager
from services.common.reading.reader import CannotRead, Congested
from services.memory.domain.documents import SavedDocument, part_id, part_ids
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Document, MemoryKind, Record
from services.memory.domain.vectors import EmbeddingSpace, Vector, embedding_mismatch
from services.memory.embedding import Embedder
from services.memory.filters import parts_of
from services.memory.parsing.media_types import media_type_of, parse_media_type
from services.memory.parsing.reader import PARSER_VERSION, DocumentReader, ReadDocument
from services.memory.repositories.documents import DocumentRepository, DocumentRow
from services.memory.stores.base import MemoryStore
from services.memory.stores.group_stores import BackendStores
from services.memory.usecases.document_parts import DocumentParts, joined
from services.memory.usecases.namespaces import namespace_key

_CHUNK_CHARACTERS = 1500
_OVERLAP_PART = 10
_MOST_OVERLAP_PART = 4
_LEAST_CHARACTERS = 100
_TOLD_BYTES = 256 * 1024
_EMBEDDED_AT_ONCE = 100
_MEDIA_TYPE_CHARACTERS = 128
_RETRY_SECONDS = 5.0
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


@dataclass(frozen=True, slots=True)
class DocumentUpload:
    """What is saved, and how it is to be split."""

    id: str
    file_name: str
    media_type: str
    """With its parameters; empty means by the name or the content."""
    title: str
    source: str
    summary: str
    agent_ids: tuple[str, ...]
    metadata: str
    chunk_characters: int
    """0 means 1500."""
    overlap_characters: int | None
    """None means a tenth of it."""
    embedding_model: str
    expected_bytes: int
    """0: not known."""
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What may arrive."""

    document_bytes: int
    group_saves: int
    """Saves of one group at the same time."""
    all_bytes: int
    """Bytes of all files that are held at the same time."""


class _Uploads:
    """Files that are being received or read, which are held in memory."""

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._saves: Counter[str] = Counter()
        self._bytes = 0

    @contextmanager
    def file(self, group_id: str) -> Iterator["_File"]:
        """Give a place to a file of a group.

        Raises:
            Unavailable: the group has all of its places in use.
        """
        if self._saves[group_id] >= self._limits.group_saves:
            raise Unavailable(
                f"{self._limits.group_saves} documents of your group are being saved; save them one after another",
                reason="OVERLOADED",
                retry_after=_RETRY_SECONDS,
            )
        self._saves[group_id] += 1
        held = _File(self)
        try:
            yield held
        finally:
            self._saves[group_id] -= 1
            self._saves += Counter()
            self._bytes -= len(held.content)

    def take(self, size: int) -> None:
        """Count bytes that are to be held.

        Raises:
            Unavailable: too many are held already.
        """
        if self._bytes + size > self._limits.all_bytes:
            raise Unavailable(
                "too many documents are being saved at the moment; try again",
                reason="OVERLOADED",
                retry_after=_RETRY_SECONDS,
            )
        self._bytes += size


class _File:
    """The bytes of a file as they come."""

    def __init__(self, uploads: _Uploads) -> None:
        self._uploads = uploads
        self.content = bytearray()
        self.sha256 = hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """Add the next bytes."""
        self._uploads.take(len(chunk))
        self.content += chunk
        self.sha256.update(chunk)


class Documents:
    """The documents of the calling principal's group, on the backend that is active for it."""

    def __init__(
        self,
        database: Database,
        stores: BackendStores,
        embedder: Embedder,
        reader: DocumentReader,
        parts: DocumentParts,
        limits: UploadLimits,
        *,
        default_model: str,
    ) -> None:
        """`default_model` embeds the first document of a group; empty means the default of models."""
        self._database = database
        self._stores = stores
        self._embedder = embedder
        self._reader = reader
        self._parts = parts
        self._limits = limits
        self._uploads = _Uploads(limits)
        self._default_model = default_model

    async def save(
        self, principal: Principal, upload: DocumentUpload, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[SaveProgress]:
        """Save a document, and yield how far that has come.

        Raises:
            InvalidArgument: the file cannot be read, or is too large, or what is said of it is wrong.
            FailedPrecondition: the group's documents are embedded with another model.
            Aborted: another call has saved the document meanwhile.
            Unavailable: too many documents are being saved.
        """
        chunk, overlap = _splitting(upload)
        key = namespace_key(principal, "", MemoryKind.DOCUMENT)
        store = await self._stores.of(principal.group_id, MemoryKind.DOCUMENT)
        existing = await store.space(key)
        if existing and upload.embedding_model not in ("", existing.model):
            raise embedding_mismatch(existing, upload.embedding_model, 0)
        self._check_size(upload.expected_bytes, "header.expected_bytes")
        with self._uploads.file(principal.group_id) as file:
            async for received in self._received(upload, chunks, file):
                yield SaveProgress(SaveStage.RECEIVING, received)
            size = len(file.content)
            media_type, charset = _media_type(upload, bytes(file.content[:1024]))
            fingerprint = _fingerprint(upload, media_type, charset, file.sha256.hexdigest(), chunk, overlap)
            same = await self._unchanged(principal, store, key, upload.id, fingerprint)
            if same is not None:
                yield SaveProgress(SaveStage.STORED, size, same.part_count, document=same, unchanged=True)
                return
            read = await self._read(principal, bytes(file.content), media_type, charset, chunk, overlap)
        count = len(read.parts)
        yield SaveProgress(SaveStage.SPLIT, size, count)
        draft = _draft(principal, upload, read, media_type, fingerprint)
        draft = replace(
            draft,
            size_bytes=size,
            content_hash=file.sha256.hexdigest(),
            chunk_characters=chunk,
            overlap_characters=overlap,
        )
        records = _records(draft, read)
        space = existing
        for start in range(0, count, _EMBEDDED_AT_ONCE):
            some = records[start : start + _EMBEDDED_AT_ONCE]
            space = await self._embed(some, space, upload.embedding_model)
            yield SaveProgress(SaveStage.EMBEDDING, size, count, min(start + len(some), count))
        assert space is not None
        document = await self._store(principal, store, key, space, draft, records)
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
        """
        store = await self._stores.of(principal.group_id, MemoryKind.DOCUMENT)
        row = await self._row(principal, store, document_id)
        if row is None:
            raise NotFound.of("document", document_id)
        key = namespace_key(principal, "", MemoryKind.DOCUMENT)
        removed = await self._parts.remove(store, key, row, utc_now())
        if row.document is None:
            # What a save has left that never ended.
            raise NotFound.of("document", document_id)
        return removed

    async def close(self) -> None:
        """End the processes that read."""
        await self._reader.close()

    async def _received(self, upload: DocumentUpload, chunks: AsyncIterator[bytes], file: _File) -> AsyncIterator[int]:
        """Yield now and then how many bytes have come; all of them are in the file at the end."""
        told = 0
        async for some in chunks:
            self._check_size(len(file.content) + len(some), "chunk")
            file.add(some)
            if len(file.content) >= told + _TOLD_BYTES:
                told = len(file.content)
                yield told
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
        if not late and not await _is_whole(store, key, document):
            return None
        if principal.subject not in document.subjects:
            subjects = (*document.subjects, principal.subject)
            async with self._database.write() as connection:
                repository = DocumentRepository(connection, principal.group_id, store.backend_id)
                await repository.set_subjects(document_id, subjects)
        return document

    async def _read(
        self, principal: Principal, content: bytes, media_type: str, charset: str, chunk: int, overlap: int
    ) -> ReadDocument:
        try:
            return await self._reader.read(principal.group_id, content, media_type, charset, chunk, overlap)
        except Congested as error:
            raise Unavailable(str(error), reason="OVERLOADED", retry_after=_RETRY_SECONDS) from error
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
                    raise _saved_meanwhile(document.id)

        stale = [one for written in before.written_before(revision) for one in part_ids(document.id, written)]
        await store.replace_document(key, space, document.id, records, stale, now, switch)
        async with self._database.write() as connection:
            await DocumentRepository(connection, principal.group_id, store.backend_id).settle(document.id, revision)
        return document


async def _is_whole(store: MemoryStore, key: NamespaceKey, document: SavedDocument) -> bool:
    """Return whether the store has the parts of a document, as they have their revision in their ids."""
    now = utc_now()
    if (await store.count(key, parts_of(document.id), now)).count != document.part_count:
        return False
    return bool(await store.get(key, [part_id(document.id, document.revision, 0)], now, embeddings=False))


def _splitting(upload: DocumentUpload) -> tuple[int, int]:
    """Return how long parts are at most, and how much of each the next one repeats."""
    chunk = upload.chunk_characters or _CHUNK_CHARACTERS
    if chunk < _LEAST_CHARACTERS:
        raise InvalidArgument.field(
            "header.chunk_characters", f"is at least {_LEAST_CHARACTERS}, or 0 for {_CHUNK_CHARACTERS:,}"
        )
    overlap = chunk // _OVERLAP_PART if upload.overlap_characters is None else upload.overlap_characters
    if overlap > chunk // _MOST_OVERLAP_PART:
        raise InvalidArgument.field(
            "header.overlap_characters",
            f"is at most a quarter of chunk_characters, {chunk // _MOST_OVERLAP_PART:,}; it is {overlap:,}",
        )
    return chunk, overlap


def _media_type(upload: DocumentUpload, beginning: bytes) -> tuple[str, str]:
    named, charset = parse_media_type(upload.media_type)
    media_type = named or media_type_of(upload.file_name, beginning)
    if len(media_type) > _MEDIA_TYPE_CHARACTERS or "/" not in media_type:
        raise InvalidArgument.field("header.media_type", 'is a media type, as "application/pdf"; or leave it empty')
    return media_type, charset


def _fingerprint(
    upload: DocumentUpload, media_type: str, charset: str, content_hash: str, chunk: int, overlap: int
) -> str:
    """Return a hash of all that decides what the parts are."""
    decisive = (
        PARSER_VERSION,
        content_hash,
        media_type,
        charset,
        chunk,
        overlap,
        upload.file_name,
        upload.title,
        upload.source,
        upload.summary,
        sorted(upload.agent_ids),
        upload.metadata,
        upload.embedding_model,
        upload.expires_at and upload.expires_at.isoformat(),
    )
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def _draft(
    principal: Principal, upload: DocumentUpload, read: ReadDocument, media_type: str, fingerprint: str
) -> SavedDocument:
    """Return the document as far as it is known before it is embedded."""
    now = utc_now()
    return SavedDocument(
        id=upload.id,
        title=upload.title or read.title or upload.file_name or upload.id,
        source=upload.source or upload.file_name,
        file_name=upload.file_name,
        media_type=media_type,
        summary=upload.summary,
        agent_ids=upload.agent_ids,
        metadata=upload.metadata,
        size_bytes=0,
        character_count=read.characters,
        page_count=read.pages,
        part_count=len(read.parts),
        chunk_characters=0,
        overlap_characters=0,
        content_hash="",
        fingerprint=fingerprint,
        embedding_model="",
        revision=0,
        subjects=(principal.subject,),
        created_at=now,
        updated_at=now,
        expires_at=upload.expires_at,
    )


def _records(draft: SavedDocument, read: ReadDocument) -> list[Record]:
    """Return the parts, whose revision says that they belong to a document; ids and vectors are still missing."""
    return [
        Record(
            id="",
            body=Document(
                content=part.content,
                title=draft.title,
                source=draft.source,
                document_type=draft.media_type,
                section=part.section,
                chunk_index=index,
                chunk_size=len(part.content),
                parent_document_id=draft.id,
                document_summary=draft.summary,
                agent_ids=draft.agent_ids,
                page=part.page,
                start_character=part.start,
                document_revision=1,
                part_count=draft.part_count,
            ),
            metadata=draft.metadata,
            expires_at=draft.expires_at,
            subjects=draft.subjects,
        )
        for index, part in enumerate(read.parts)
    ]


def _saved_meanwhile(document_id: str) -> Aborted:
    return Aborted(
        f'another call has saved or removed the document "{document_id}" meanwhile; save it again if yours is to count',
        reason="REVISION_MISMATCH",
        metadata={"resource": "document", "id": document_id},
    )


def _bytes_of(document: SavedDocument) -> int:
    texts = (document.title, document.source, document.summary, *document.agent_ids)
    return 512 + sum(len(text.encode()) for text in texts) + 8 * len(document.metadata.encode())
