"""Records as messages."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.memory.v1 import record_pb2
from services.common.clock import utc_now
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.common.grpc.json_values import from_struct, parse_exact, to_struct
from services.common.grpc.times import optional_timestamp_from_proto, timestamp_to_proto
from services.common.visible_text import has_visible_text
from services.memory import filters
from services.memory.domain.expiry import expires_us
from services.memory.domain.moments import microseconds, moment_of
from services.memory.domain.owners import owner_of
from services.memory.domain.records import (
    Body,
    Document,
    Entity,
    LongTerm,
    MemoryKind,
    Record,
    Relationship,
    ShortTerm,
    Unified,
)
from services.memory.domain.scopes import normalise_scope
from services.memory.domain.vectors import unit_vector

_LATEST_US = microseconds(datetime.max.replace(tzinfo=UTC))


def kind_from_proto(number: int) -> MemoryKind:
    """Return the kind; UNSPECIFIED means UNIFIED."""
    return enum_from_proto(MemoryKind, record_pb2.MemoryKind, number) if number else MemoryKind.UNIFIED


def kind_to_proto(kind: MemoryKind) -> record_pb2.MemoryKind.ValueType:
    """Return the proto's value of a kind."""
    return enum_to_proto(record_pb2.MemoryKind, kind)


def records_from_proto(messages: Sequence[record_pb2.Record]) -> list[Record]:
    """Return the records of a request.

    Raises:
        InvalidArgument: a field cannot be stored.
    """
    return [record_from_proto(message, f"records[{index}]") for index, message in enumerate(messages)]


def record_from_proto(message: record_pb2.Record, path: str) -> Record:
    """Return the record of a message.

    Raises:
        InvalidArgument: a field cannot be stored.
    """
    _check_record(message, path)
    embedding = None
    if message.embedding:
        try:
            embedding = unit_vector(message.embedding)
        except ValueError as error:
            raise InvalidArgument.field(f"{path}.embedding", str(error)) from None
    return Record(
        id=message.id,
        body=_body_from_proto(message, path),
        embedding=embedding,
        agent_id=message.agent_id,
        llm_model=message.llm_model,
        tools_used=tuple(message.tools_used),
        metadata=_metadata_from_proto(message, f"{path}.metadata"),
        created_at=optional_timestamp_from_proto(message, "create_time", path),
        expires_at=_expiry_from_proto(message, path),
        expected_revision=message.expected_revision if message.HasField("expected_revision") else None,
        owner=message.unified.owner if message.HasField("unified") and message.unified.private else "",
    )


def _expiry_from_proto(message: record_pb2.Record, path: str) -> datetime | None:
    if not message.ttl_seconds:
        return optional_timestamp_from_proto(message, "expire_time", path)
    if message.HasField("expire_time"):
        raise InvalidArgument.field(f"{path}.ttl_seconds", "stands for expire_time; set one of them")
    return utc_now() + timedelta(seconds=message.ttl_seconds)


def _expiry_to_proto(record: Record) -> Timestamp | None:
    ends = expires_us(record)
    return None if ends is None or ends > _LATEST_US else timestamp_to_proto(moment_of(ends))


def check_visible(text: str, path: str) -> None:
    """Refuse a text without meaning.

    Raises:
        InvalidArgument: there is nothing to see in it.
    """
    if not has_visible_text(text):
        raise InvalidArgument.field(path, "holds nothing but blanks or characters without width; give it some text")


def _check_record(message: record_pb2.Record, path: str) -> None:
    if message.HasField("expected_revision") and not message.id:
        raise InvalidArgument.field(f"{path}.expected_revision", "needs the id of the record; set id")
    kind = message.WhichOneof("kind") or "unified"
    name = "entity_name" if kind == "entity" else "content"
    check_visible(getattr(getattr(message, kind), name), f"{path}.{kind}.{name}")


def _metadata_from_proto(message: record_pb2.Record, path: str) -> str:
    if not message.HasField("metadata"):
        return "{}"
    return filters.metadata_text(from_struct(path, message.metadata, exact=True), path)


def _body_from_proto(message: record_pb2.Record, path: str) -> Body:
    match message.WhichOneof("kind"):
        case "unified":
            unified = message.unified
            return Unified(
                content=unified.content,
                scope=normalise_scope(unified.scope),
                categories=tuple(unified.categories),
                importance=unified.importance,
                source=unified.source,
                private=unified.private,
                last_accessed=optional_timestamp_from_proto(unified, "last_accessed", f"{path}.unified"),
                session_id=unified.session_id,
            )
        case "short_term":
            short_term = message.short_term
            return ShortTerm(
                content=short_term.content,
                query_text=short_term.query_text,
                session_id=short_term.session_id,
                interaction_sequence=short_term.interaction_sequence,
                ttl_hours=short_term.ttl_hours,
            )
        case "long_term":
            long_term = message.long_term
            return LongTerm(
                content=long_term.content,
                task_description=long_term.task_description,
                quality=long_term.quality,
                importance=long_term.importance,
                last_accessed=optional_timestamp_from_proto(long_term, "last_accessed", f"{path}.long_term"),
            )
        case "entity":
            entity = message.entity
            return Entity(
                entity_name=entity.entity_name,
                entity_type=entity.entity_type,
                description=entity.description,
                relationships=tuple(Relationship(edge.relation, edge.target) for edge in entity.relationships),
            )
        case "document":
            document = message.document
            return Document(
                content=document.content,
                title=document.title,
                source=document.source,
                document_type=document.document_type,
                section=document.section,
                chunk_index=document.chunk_index,
                chunk_size=document.chunk_size,
                parent_document_id=document.parent_document_id,
                document_summary=document.document_summary,
                agent_ids=tuple(document.agent_ids),
                page=document.page,
                start_character=document.start_character,
                document_revision=document.document_revision,
                part_count=document.part_count,
            )
        case _:
            raise InvalidArgument.field(path, "has none of unified, short_term, long_term, entity and document")


def encoded_record(record: Record) -> bytes:
    """Return the bytes of a stored record's message. Without its vector it keeps them: it must not change any more."""
    if record.embedding is not None:
        return record_to_proto(record).SerializeToString()
    if record.encoded is None:
        record.encoded = record_to_proto(record).SerializeToString()
    return record.encoded


def record_to_proto(record: Record) -> record_pb2.Record:
    """Return the message of a stored record."""
    message = record_pb2.Record(
        id=record.id,
        agent_id=record.agent_id,
        llm_model=record.llm_model,
        tools_used=record.tools_used,
        metadata=None if record.metadata == "{}" else to_struct(parse_exact(record.metadata)),
        create_time=timestamp_to_proto(record.created_at),
        expire_time=_expiry_to_proto(record),
        revision=record.revision,
    )
    if record.embedding is not None:
        message.embedding.extend(record.embedding.tolist())
    match record.body:
        case Unified() as body:
            message.unified.CopyFrom(
                record_pb2.UnifiedRecord(
                    content=body.content,
                    scope=body.scope,
                    categories=body.categories,
                    importance=body.importance,
                    source=body.source,
                    private=body.private,
                    owner=owner_of(record) or "",
                    last_accessed=timestamp_to_proto(body.last_accessed),
                    session_id=body.session_id,
                )
            )
        case ShortTerm() as body:
            message.short_term.CopyFrom(
                record_pb2.ShortTermRecord(
                    content=body.content,
                    query_text=body.query_text,
                    session_id=body.session_id,
                    interaction_sequence=body.interaction_sequence,
                    ttl_hours=body.ttl_hours,
                )
            )
        case LongTerm() as body:
            message.long_term.CopyFrom(
                record_pb2.LongTermRecord(
                    content=body.content,
                    task_description=body.task_description,
                    task_hash=body.task_hash,
                    quality=body.quality,
                    importance=body.importance,
                    last_accessed=timestamp_to_proto(body.last_accessed),
                )
            )
        case Entity() as body:
            edges = [record_pb2.Relationship(relation=e.relation, target=e.target) for e in body.relationships]
            message.entity.CopyFrom(
                record_pb2.EntityRecord(
                    entity_name=body.entity_name,
                    entity_type=body.entity_type,
                    description=body.description,
                    relationships=edges,
                )
            )
        case Document() as body:
            message.document.CopyFrom(
                record_pb2.DocumentRecord(
                    title=body.title,
                    content=body.content,
                    source=body.source,
                    document_type=body.document_type,
                    section=body.section,
                    chunk_index=body.chunk_index,
                    chunk_size=body.chunk_size,
                    parent_document_id=body.parent_document_id,
                    document_summary=body.document_summary,
                    agent_ids=body.agent_ids,
                    update_time=timestamp_to_proto(body.updated_at),
                    page=body.page,
                    start_character=body.start_character,
                    document_revision=body.document_revision,
                    part_count=body.part_count,
                )
            )
    return message
