"""Messages of `coxswain.memory.v1` to the domain and back."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.memory.v1 import memory_pb2, record_pb2
from services.common.errors import InvalidArgument
from services.memory import filters
from services.memory.domain import (
    Body,
    Comparison,
    Condition,
    Document,
    Entity,
    Filter,
    LongTerm,
    MemoryKind,
    NamespaceInfo,
    Ranking,
    Record,
    Relationship,
    Scalar,
    ScopeInfo,
    ShortTerm,
    Unified,
    microseconds,
    normalise_scope,
    unit_vector,
)
from services.memory.schemas import canonical_json

_DEFAULT_HALF_LIFE_DAYS = 30.0
_MAX_VALUES = 10_000
"""A third of the parameters that a statement takes on any of the databases."""


def memory_kind(value: int) -> MemoryKind:
    """Return the kind, where UNSPECIFIED means UNIFIED."""
    return MemoryKind(value or MemoryKind.UNIFIED)


def record_to_domain(message: record_pb2.Record, path: str, request_id: str) -> Record:
    """Return the record of a message.

    Without an id it gets one made of the call's request id and its own content: a call that is sent again stores
    nothing twice.

    Raises:
        InvalidArgument: a field cannot be stored.
    """
    _check_texts(message, path)
    embedding = None
    if message.embedding:
        try:
            embedding = unit_vector(message.embedding)
        except ValueError as error:
            raise InvalidArgument.field(f"{path}.embedding", str(error)) from None
    return Record(
        id=message.id or _chosen_id(message, path, request_id),
        body=_body_to_domain(message, path),
        embedding=embedding,
        agent_id=message.agent_id,
        llm_model=message.llm_model,
        tools_used=tuple(message.tools_used),
        metadata=filters.read_metadata(message.metadata, f"{path}.metadata"),
        created_at=optional_moment(message, "create_time", path),
    )


def _chosen_id(message: record_pb2.Record, path: str, request_id: str) -> str:
    content = message.SerializeToString(deterministic=True)
    return hashlib.sha256(f"{request_id}\n{path}\n".encode() + content).hexdigest()[:32]


def _body_to_domain(message: record_pb2.Record, path: str) -> Body:
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
                last_accessed=optional_moment(unified, "last_accessed", f"{path}.unified"),
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
                last_accessed=optional_moment(long_term, "last_accessed", f"{path}.long_term"),
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
            )
        case _:
            raise InvalidArgument.field(path, "has none of unified, short_term, long_term, entity and document")


def _check_texts(message: Message, path: str) -> None:
    for field, value in message.ListFields():
        if isinstance(value, str):
            filters.check_text(value, f"{path}.{field.name}")
        elif field.cpp_type in (field.CPPTYPE_STRING, field.CPPTYPE_MESSAGE):
            for inner in value if field.is_repeated else (value,):
                if isinstance(inner, str):
                    filters.check_text(inner, f"{path}.{field.name}")
                elif isinstance(inner, Message):
                    _check_texts(inner, f"{path}.{field.name}")


def record_to_message(record: Record) -> record_pb2.Record:
    """Return the message of a stored record."""
    message = record_pb2.Record(
        id=record.id,
        agent_id=record.agent_id,
        llm_model=record.llm_model,
        tools_used=record.tools_used,
        metadata=record.metadata,
        create_time=timestamp(record.created_at),
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
                    last_accessed=timestamp(body.last_accessed),
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
                    last_accessed=timestamp(body.last_accessed),
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
                    update_time=timestamp(body.updated_at),
                )
            )
    return message


def filter_to_domain(message: memory_pb2.RecordFilter, kind: MemoryKind) -> Filter:
    """Return the filter of a message, checked against the kind's schema.

    Raises:
        InvalidArgument: a part of it does not fit the kind.
    """
    _check_texts(message, "filter")
    if kind is not MemoryKind.UNIFIED:
        for name in ("scope_prefix", "categories", "source", "include_private"):
            if getattr(message, name):
                raise InvalidArgument.field(f"filter.{name}", f"{kind.name} records have none")
    return Filter(
        conditions=conditions_to_domain(message.conditions, kind, "filter.conditions"),
        scope_prefix=normalise_scope(message.scope_prefix) if message.scope_prefix else "",
        categories=frozenset(message.categories),
        metadata={
            name: canonical_json(filters.read_json(text, f'filter.metadata["{name}"]'))
            for name, text in message.metadata.items()
        },
        created_before=optional_moment(message, "created_before", "filter"),
        source=message.source,
        include_private=message.include_private,
    )


def conditions_to_domain(
    messages: Sequence[record_pb2.Condition], kind: MemoryKind, path: str
) -> tuple[Condition, ...]:
    """Return the conditions, checked against the kind's schema.

    Raises:
        InvalidArgument: one does not fit it, or they are more than a statement can hold.
    """
    if sum(len(message.values) for message in messages) > _MAX_VALUES:
        raise InvalidArgument.field(path, f"have more than {_MAX_VALUES} values together: ask in several calls")
    return tuple(
        filters.check_condition(
            kind,
            message.column,
            Comparison(message.operator or record_pb2.COMPARISON_OPERATOR_EQUAL),
            [_scalar(value, f"{path}[{place}].values[{at}]") for at, value in enumerate(message.values)],
            f"{path}[{place}]",
        )
        for place, message in enumerate(messages)
    )


def _scalar(message: record_pb2.ConditionValue, path: str) -> Scalar:
    if message.WhichOneof("value") == "time":
        return _moment(message.time, f"{path}.time")
    value: Scalar = getattr(message, message.WhichOneof("value") or "text")
    return value


def ranking_to_domain(message: memory_pb2.Ranking) -> Ranking:
    """Return the weights.

    Raises:
        InvalidArgument: they sum to nothing, or one is not finite.
    """
    weights = (message.semantic_weight, message.recency_weight, message.importance_weight)
    if not 0 < sum(weights) < float("inf"):
        raise InvalidArgument.field("ranking", "at least one weight has to be above 0, and all of them finite")
    half_life = message.recency_half_life_days or _DEFAULT_HALF_LIFE_DAYS
    return Ranking(*weights, half_life_days=half_life)


def scope_to_message(info: ScopeInfo) -> memory_pb2.ScopeInfo:
    """Return the message of a scope's figures."""
    return memory_pb2.ScopeInfo(
        path=info.path,
        record_count=info.record_count,
        categories=info.categories,
        oldest_time=timestamp(info.oldest),
        newest_time=timestamp(info.newest),
        child_scopes=info.child_scopes,
    )


def namespace_to_message(info: NamespaceInfo) -> memory_pb2.NamespaceInfo:
    """Return the message of a namespace."""
    return memory_pb2.NamespaceInfo(
        namespace=memory_pb2.Namespace(
            memory_id=info.key.memory_id, kind=record_pb2.MemoryKind.ValueType(int(info.key.kind))
        ),
        embedding_model=info.space.model,
        embedding_dimension=info.space.dimension,
        record_count=info.record_count,
        version=info.version,
    )


def optional_moment(message: Message, field: str, path: str) -> datetime | None:
    """Return the moment in a field, or None when it is absent."""
    return _moment(getattr(message, field), f"{path}.{field}") if message.HasField(field) else None


def _moment(message: Timestamp, path: str) -> datetime:
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument.field(path, "is outside of the years 1 to 9999") from None


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Return the message of a moment, or None for none."""
    if moment is None:
        return None
    seconds, us = divmod(microseconds(moment), 1_000_000)
    return Timestamp(seconds=seconds, nanos=us * 1000)
