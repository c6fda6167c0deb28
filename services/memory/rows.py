"""Records as rows of a store, and rows as records."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from services.common.errors import FailedPrecondition
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.owners import SUBJECT, agent, owner_of
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
from services.memory.schemas import _SCHEMAS, Column, has_column, metadata_column

Row = Mapping[str, Any]


RECORD_VERSION: Final = 1
"""Version of the way records are written into rows."""


ENVELOPE: Final = "_coxswain"
"""Key within a row's JSON column that keeps what its schema has no column for: the client's own id above all."""


class MalformedRow(FailedPrecondition):
    """A row does not have the columns of its kind, or one of them cannot be read."""

    def __init__(self, kind: str, key: object, why: object) -> None:
        """`key` is the row's primary key."""
        super().__init__(
            f"the {kind} row {key} cannot be read, as if something else had written it ({why}): remove it where it is "
            "stored, or clear its namespace",
            reason="STORE_FAILED",
            metadata={"http_status": "0", "error_code": "MALFORMED_ROW"},
        )


def build_row(key: NamespaceKey, record: Record, embedding_model: str) -> dict[str, Any]:
    """Return the row of a record whose embedding and times are set; moments are `datetime`, vectors arrays."""
    created = record.created_at
    if created is None or record.embedding is None:
        raise ValueError("a record is stored with its embedding and its time")
    body = record.body
    row: dict[str, Any] = {
        "id": key.stored_id(record.id),
        "agent_id": record.agent_id,
        "llm_model": record.llm_model,
        "tools_used": canonical_json(list(record.tools_used)),
        "group_id": key.group_id,
        "crew_id": key.memory_id,
        "created_at": created,
        "timestamp": format_time(created),
        "embedding": record.embedding,
        "embedding_model": embedding_model,
        "version": RECORD_VERSION,
        metadata_column(record.kind): _metadata_document(record),
    }
    match body:
        case Unified():
            row |= {
                "content": body.content,
                "scope": body.scope,
                "categories": canonical_json(list(body.categories)),
                "importance": body.importance,
                "source": body.source,
                "private": body.private,
                "last_accessed": body.last_accessed,
                "session_id": body.session_id,
            }
        case ShortTerm():
            row |= {
                "content": body.content,
                "query_text": body.query_text,
                "session_id": body.session_id,
                "interaction_sequence": body.interaction_sequence,
                "ttl_hours": body.ttl_hours,
            }
        case LongTerm():
            row |= {
                "content": body.content,
                "task_description": body.task_description,
                "task_hash": body.task_hash,
                "quality": body.quality,
                "importance": body.importance,
                "last_accessed": body.last_accessed,
            }
        case Entity():
            row |= {
                "entity_name": body.entity_name,
                "entity_type": body.entity_type,
                "description": body.description,
            }
        case Document():
            row |= {
                "title": body.title,
                "content": body.content,
                "source": body.source,
                "document_type": body.document_type,
                "section": body.section,
                "chunk_index": body.chunk_index,
                "chunk_size": body.chunk_size,
                "parent_document_id": body.parent_document_id,
                "document_summary": body.document_summary,
                "agent_ids": canonical_json(list(body.agent_ids)),
                "created_at": format_time(created),
                "updated_at": format_time(body.updated_at or created),
            }
    return {field.name: row[field.name] for field in _SCHEMAS[record.kind]}


def parse_row(kind: MemoryKind, row: Row) -> Record:
    """Return the record of a row. The vector is read when the row has one; columns of other versions are passed over.

    Raises:
        MalformedRow: a column is missing or cannot be read.
    """
    try:
        own, envelope = _read_metadata(kind, row)
        record = Record(
            id=envelope["id"],
            body=_parse_body(kind, row),
            embedding=_parse_vector(row.get(Column.EMBEDDING)),
            metadata=canonical_json(own),
            created_at=parse_time(row[Column.CREATED_AT if has_column(kind, Column.CREATED_AT) else Column.TIMESTAMP]),
        )
        record.revision = int(envelope.get("revision") or 1)
        record.subjects = tuple(envelope.get("subjects") or ())
        if isinstance(record.body, Unified) and record.body.private:
            # Rows of earlier versions say it by their source.
            record.owner = _text(envelope.get("owner")) or agent(record.body.source)
        if kind is MemoryKind.DOCUMENT:
            record.agent_id, record.llm_model = envelope["agent_id"], envelope["llm_model"]
            record.tools_used = tuple(envelope["tools_used"])
        else:
            record.agent_id, record.llm_model = _text(row["agent_id"]), _text(row["llm_model"])
            record.tools_used = parse_list(row["tools_used"])
    except KeyError as error:
        raise MalformedRow(kind.name, row.get(Column.ID), f"it has no {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedRow(kind.name, row.get(Column.ID), error) from None
    return record


def _parse_body(kind: MemoryKind, row: Row) -> Body:
    match kind:
        case MemoryKind.UNIFIED:
            return Unified(
                content=_text(row["content"]),
                scope=_text(row["scope"]) or "/",
                categories=parse_list(row["categories"]),
                importance=float(row["importance"] or 0.0),
                source=_text(row["source"]),
                private=parse_boolean(row["private"]),
                last_accessed=_optional_time(row["last_accessed"]),
                session_id=_text(row["session_id"]),
            )
        case MemoryKind.SHORT_TERM:
            return ShortTerm(
                content=_text(row["content"]),
                query_text=_text(row["query_text"]),
                session_id=_text(row["session_id"]),
                interaction_sequence=int(row["interaction_sequence"] or 0),
                ttl_hours=int(row["ttl_hours"] or 0),
            )
        case MemoryKind.LONG_TERM:
            return LongTerm(
                content=_text(row["content"]),
                task_description=_text(row["task_description"]),
                quality=float(row["quality"] or 0.0),
                importance=float(row["importance"] or 0.0),
                last_accessed=_optional_time(row["last_accessed"]),
            )
        case MemoryKind.ENTITY:
            return Entity(
                entity_name=_text(row["entity_name"]),
                entity_type=_text(row["entity_type"]),
                description=_text(row["description"]),
                relationships=tuple(
                    Relationship(relation, target)
                    for relation, target in json.loads(_text(row["relationships"]))["relationships"]
                ),
            )
        case MemoryKind.DOCUMENT:
            return Document(
                content=_text(row["content"]),
                title=_text(row["title"]),
                source=_text(row["source"]),
                document_type=_text(row["document_type"]),
                section=_text(row["section"]),
                chunk_index=int(row["chunk_index"] or 0),
                chunk_size=int(row["chunk_size"] or 0),
                parent_document_id=_text(row["parent_document_id"]),
                # Searches do not return the summary.
                document_summary=_text(row.get("document_summary")),
                agent_ids=parse_list(row["agent_ids"]),
                updated_at=_optional_time(row["updated_at"]),
            )


def _metadata_document(record: Record) -> str:
    """Return the JSON column: the client's own keys, and under ENVELOPE what the schema has no column for."""
    envelope: dict[str, Any] = {"id": record.id}
    if owner := owner_of(record):
        envelope["owner"] = owner
    if record.subjects:
        envelope["subjects"] = list(record.subjects)
    if record.revision > 1:
        envelope["revision"] = record.revision
    own: dict[str, Any] = json.loads(record.metadata)
    if isinstance(record.body, Entity):
        edges = [[edge.relation, edge.target] for edge in record.body.relationships]
        return canonical_json({"relationships": edges, "metadata": own, ENVELOPE: envelope})
    if isinstance(record.body, Document):
        envelope |= {
            "agent_id": record.agent_id,
            "llm_model": record.llm_model,
            "tools_used": list(record.tools_used),
        }
    return canonical_json({**own, ENVELOPE: envelope})


def _read_metadata(kind: MemoryKind, row: Row) -> tuple[dict[str, Any], Mapping[str, Any]]:
    document = json.loads(_text(row[metadata_column(kind)]))
    envelope = document.pop(ENVELOPE, None)
    if not isinstance(envelope, dict):
        raise ValueError("it does not hold the record's own id")
    return document["metadata"] if kind is MemoryKind.ENTITY else document, envelope


def metadata_of(kind: MemoryKind, row: Row) -> dict[str, Any]:
    """Return the client's own metadata of a row."""
    return _read_metadata(kind, row)[0]


def row_revision(kind: MemoryKind, row: Row) -> int:
    """Return how often the record of a row was saved; once if it does not say."""
    return int(_read_metadata(kind, row)[1].get("revision") or 1)


def row_subjects(kind: MemoryKind, row: Row) -> frozenset[str]:
    """Return the subjects that a row is tied to: those that saved it, its owner, and what its metadata name so."""
    own, envelope = _read_metadata(kind, row)
    subjects = {str(subject) for subject in envelope.get("subjects") or ()}
    owner = str(envelope.get("owner") or "")
    if owner.startswith(SUBJECT):
        subjects.add(owner.removeprefix(SUBJECT))
    if isinstance(named := own.get("subject"), str):
        subjects.add(named)
    return frozenset(subjects)


def row_owner(row: Row) -> str:
    """Return whose the private record of a unified row is; rows of earlier versions say it by their source."""
    _, envelope = _read_metadata(MemoryKind.UNIFIED, row)
    return _text(envelope.get("owner")) or agent(_text(row[Column.SOURCE]))


def canonical_json(value: object) -> str:
    """Return JSON text that is equal for equal values: sorted keys, no spaces, no NaN."""
    return _CANONICAL.encode(value)


# Made once, as `json.dumps` would make it for every call.
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def format_time(moment: datetime) -> str:
    """Return a moment in UTC as text that sorts by time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(value: object) -> datetime:
    """Read a moment: a `datetime`, ISO 8601 text, or a number of seconds or milliseconds since 1970."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Seconds reach this bound in the year 5138, milliseconds passed it in 1973.
        return datetime.fromtimestamp(value / 1000 if abs(value) > 1e11 else value, UTC)
    raise ValueError(f"{type(value).__name__} is not a time")


def parse_list(value: object) -> tuple[str, ...]:
    """Read a column that holds a list of texts as JSON; an empty column is an empty list."""
    text = _text(value)
    return tuple(json.loads(text)) if text not in ("", "[]") else ()


def parse_boolean(value: object) -> bool:
    """Read a truth value, which some interfaces send as text."""
    return value.lower() == "true" if isinstance(value, str) else bool(value)


def _optional_time(value: object) -> datetime | None:
    return None if value is None or value == "" else parse_time(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is not text")
    return value


def _parse_vector(value: object) -> Any:
    if value is None:
        return None
    if isinstance(value, bytes | memoryview | bytearray):
        return np.frombuffer(value, dtype="<f4")
    return np.asarray(value, dtype=np.float32)
