"""Documents that are saved as a whole, and the records that are their parts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.memory.domain.digest import digest
from services.memory.domain.records import Document, Record


@dataclass(frozen=True, slots=True)
class PartsWritten:
    """Parts of a revision of a document that may be in the store."""

    revision: int
    count: int
    """How many; 0 says that the document was removed at that revision: no save of an earlier one counts any more."""
    until_us: int = field(default=0, compare=False)
    """Until when others may be writing them, in microseconds since 1970; 0 when nobody is."""


@dataclass(frozen=True, slots=True)
class SavedDocument:
    """A document. Its group and the backend with its parts are not part of it."""

    id: str
    title: str
    source: str
    file_name: str
    media_type: str
    summary: str
    agent_ids: tuple[str, ...]
    metadata: str
    """A JSON object in canonical form."""
    size_bytes: int
    character_count: int
    page_count: int
    part_count: int
    chunk_characters: int
    overlap_characters: int
    content_hash: str
    """SHA-256 of the file; empty for a document that came back with an import of its parts."""
    fingerprint: str
    """Hash of the file and of all that decides what its parts are; empty when they may be others."""
    embedding_model: str
    revision: int
    subjects: tuple[str, ...]
    """The verified subjects that have saved it as it is. See `Record.subjects`."""
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None


def part_ids(document_id: str, written: Iterable[PartsWritten]) -> Iterator[str]:
    """Yield the ids of the parts of some revisions: those of another revision have others."""
    return (part_id(document_id, parts.revision, index) for parts in written for index in range(parts.count))


def part_id(document_id: str, revision: int, index: int) -> str:
    """Return the id of one part."""
    return f"{document_id}#{revision}.{index}"


def document_key(group_id: str, backend_id: str | None, document_id: str) -> str:
    """Return the primary key of a document of a group in a backend; None is the installation's default store."""
    return digest("document", group_id, backend_id or "", document_id)


def brought_back(part: Record, subject: str, now: datetime) -> SavedDocument | None:
    """Return the document that a part of another place brings with it; None for a record that is part of none."""
    body = part.body
    if not isinstance(body, Document) or not body.document_revision or not body.parent_document_id:
        return None
    return SavedDocument(
        id=body.parent_document_id,
        title=body.title,
        source=body.source,
        file_name="",
        media_type=body.document_type,
        summary=body.document_summary,
        agent_ids=body.agent_ids,
        metadata=part.metadata,
        size_bytes=0,
        character_count=0,
        page_count=0,
        part_count=body.part_count,
        chunk_characters=0,
        overlap_characters=0,
        content_hash="",
        fingerprint="",
        embedding_model="",
        revision=body.document_revision,
        subjects=(subject,),
        created_at=part.created_at or now,
        updated_at=now,
        expires_at=part.expires_at,
    )


def is_part_of(document: SavedDocument, record: Record) -> bool:
    """Return whether a record is a part of a document at its revision."""
    body = record.body
    if not isinstance(body, Document) or body.document_revision != document.revision:
        return False
    named = part_id(document.id, document.revision, body.chunk_index)
    return body.chunk_index < document.part_count and record.id == named


def named_documents(records: Sequence[Record]) -> list[str]:
    """Return the ids of the documents that records name as theirs, each once."""
    bodies = (record.body for record in records)
    return list(dict.fromkeys(b.parent_document_id for b in bodies if isinstance(b, Document) and b.parent_document_id))
