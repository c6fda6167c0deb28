"""Documents as messages."""

from coxswain.memory.v1 import document_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_to_proto
from services.common.grpc.json_values import from_struct, parse_exact, to_struct
from services.common.grpc.times import optional_timestamp_from_proto, timestamp_to_proto
from services.common.visible_text import has_visible_text
from services.memory import filters
from services.memory.domain.documents import SavedDocument
from services.memory.usecases.document_drafts import DocumentUpload
from services.memory.usecases.documents import SaveProgress


def upload_from_proto(header: pb.DocumentHeader) -> DocumentUpload:
    """Return what a header says.

    Raises:
        InvalidArgument: it names no document, or has metadata that cannot be stored.
    """
    document_id = header.id or header.file_name
    if not has_visible_text(document_id):
        raise InvalidArgument.field("header.id", "is empty; give the document an id, or name its file in file_name")
    metadata = "{}"
    if header.HasField("metadata"):
        path = "header.metadata"
        metadata = filters.metadata_text(from_struct(path, header.metadata, exact=True), path)
    return DocumentUpload(
        id=document_id,
        file_name=header.file_name,
        media_type=header.media_type,
        title=header.title,
        source=header.source,
        summary=header.summary,
        agent_ids=tuple(header.agent_ids),
        metadata=metadata,
        chunk_characters=header.chunk_characters,
        overlap_characters=header.overlap_characters if header.HasField("overlap_characters") else None,
        embedding_model=header.embedding_model,
        expected_bytes=header.expected_bytes,
        expires_at=optional_timestamp_from_proto(header, "expire_time", "header"),
    )


def progress_to_proto(progress: SaveProgress) -> pb.SaveDocumentResponse:
    """Return the response that says how far a save has come."""
    return pb.SaveDocumentResponse(
        stage=enum_to_proto(pb.DocumentStage, progress.stage),
        received_bytes=progress.received_bytes,
        part_count=progress.part_count,
        embedded_parts=progress.embedded_parts,
        document=None if progress.document is None else document_to_proto(progress.document),
        unchanged=progress.unchanged,
    )


def document_to_proto(document: SavedDocument) -> pb.Document:
    """Return the message of a document."""
    return pb.Document(
        id=document.id,
        title=document.title,
        source=document.source,
        file_name=document.file_name,
        media_type=document.media_type,
        summary=document.summary,
        agent_ids=document.agent_ids,
        metadata=None if document.metadata == "{}" else to_struct(parse_exact(document.metadata)),
        size_bytes=document.size_bytes,
        character_count=document.character_count,
        page_count=document.page_count,
        part_count=document.part_count,
        chunk_characters=document.chunk_characters,
        overlap_characters=document.overlap_characters,
        content_hash=document.content_hash,
        revision=document.revision,
        embedding_model=document.embedding_model,
        create_time=timestamp_to_proto(document.created_at),
        update_time=timestamp_to_proto(document.updated_at),
        expire_time=timestamp_to_proto(document.expires_at),
    )
