"""From what a save says of a document to its parts as records, before they are embedded and stored."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from services.common.clock import utc_now
from services.common.errors import InvalidArgument
from services.common.identity.principal import Principal
from services.memory.domain.documents import SavedDocument
from services.memory.domain.records import Document, Record
from services.memory.parsing.media_types import parse_media_type
from services.memory.parsing.reader import PARSER_VERSION, ReadDocument

_CHUNK_CHARACTERS = 1500
_OVERLAP_PART = 10
_MOST_OVERLAP_PART = 4
_LEAST_CHARACTERS = 100


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


def splitting_of(upload: DocumentUpload) -> tuple[int, int]:
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


def named_type_of(upload: DocumentUpload) -> tuple[str, str]:
    """Return the media type and the character set that a client names; empty texts where it names none.

    Raises:
        InvalidArgument: it cannot be read.
    """
    try:
        return parse_media_type(upload.media_type)
    except ValueError as error:
        raise InvalidArgument.field("header.media_type", str(error)) from error


def fingerprint_of(
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


def draft_of(
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


def records_of(draft: SavedDocument, read: ReadDocument) -> list[Record]:
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
