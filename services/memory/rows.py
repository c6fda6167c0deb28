"""Records as rows of a store, and rows as records, whoever has written them.

A row of this service has an envelope in its JSON column with the id that the client gave; its primary key is made from
that id. Any other row is a record, too: its id is its primary key.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from services.memory.domain.metadata import canonical_json
from services.memory.domain.namespaces import NamespaceKey, stored_id_of
from services.memory.domain.owners import agent, owner_of
from services.memory.domain.records import (
    Body,
    Document,
    Entity,
    LongTerm,
    MemoryKind,
    Record,
    ShortTerm,
    Unified,
)
from services.memory.domain.subjects import Ties
from services.memory.row_values import (
    format_time,
    parse_boolean,
    parse_list,
    read_float,
    read_integer,
    read_json,
    read_object,
    read_relationships,
    read_text,
    read_time,
    read_vector,
)
from services.memory.schemas import _SCHEMAS, Column, FieldType, has_column, metadata_column

Row = Mapping[str, Any]


RECORD_VERSION: Final = 1
"""Version of the way records are written into rows."""


ENVELOPE: Final = "_coxswain"
"""Key within a row's JSON column that keeps what its schema has no column for: the client's own id above all."""


MAX_ID_LENGTH: Final = 256
"""Characters of an id that requests can name."""
_MAX_CONTENT_BYTES = 1024 * 1024
_MAX_ROW_BYTES = 5 * 512 * 1024
"""All texts of a row: a record has to fit in a message."""
_MOST_BYTES_OF_CHARACTER: Final = 4


_PLACE: Final = {"page": 32, "start_character": 64, "document_revision": 64, "part_count": 32}
"""What parts of documents have no column for, and the bits of each."""


class UnreadableRow(ValueError):
    """A row that is no record, and why; its text never shows what the row holds."""


def build_row(key: NamespaceKey, record: Record, embedding_model: str) -> dict[str, Any]:
    """Return the row of a record whose embedding and times are set; moments are `datetime`, vectors arrays.

    A record that says where it is stored keeps its primary key.
    """
    created = record.created_at
    if created is None or record.embedding is None:
        raise ValueError("a record is stored with its embedding and its time")
    body = record.body
    row: dict[str, Any] = {
        "id": record.stored_id or key.stored_id(record.id),
        "agent_id": record.agent_id,
        "llm_model": record.llm_model,
        "tools_used": _json_list(record.tools_used),
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
                "categories": _json_list(body.categories),
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
                "agent_ids": _json_list(body.agent_ids),
                "created_at": format_time(created),
                "updated_at": format_time(body.updated_at or created),
            }
    return {name: row[name] for name in _TYPES[record.kind]}


def setting_columns(body: Body) -> Mapping[str, str | int | bool]:
    """Return columns, with their values, that conditions may name and that near-copies of a record have in common."""
    match body:
        case Unified():
            return {"scope": body.scope, "private": body.private}
        case ShortTerm():
            return {"session_id": body.session_id, "interaction_sequence": body.interaction_sequence}
        case LongTerm():
            return {"task_hash": body.task_hash}
        case Entity():
            return {"entity_name": body.entity_name, "entity_type": body.entity_type}
        case Document():
            return {"parent_document_id": body.parent_document_id, "chunk_index": body.chunk_index}


def parse_row(kind: MemoryKind, row: Row) -> Record:
    """Return the record of a row. The vector is read when the row has one; columns of other versions are passed over.

    Columns that are missing, empty or of another type are read as far as that goes.

    Raises:
        UnreadableRow: see `unreadable`.
    """
    why = unreadable(kind, row)
    if why:
        raise UnreadableRow(why)
    document = read_json(row.get(metadata_column(kind)))
    stated = _stated(document)
    envelope = _envelope(kind, row, stated)
    stored_id: str = row[Column.ID]
    record = Record(
        id=envelope.get("id", stored_id),
        body=_parse_body(kind, row, document, stated),
        embedding=read_vector(row.get(Column.EMBEDDING)),
        metadata=read_object(_own_metadata(kind, document)),
        created_at=created_of(row),
        stored_id=stored_id,
    )
    record.expires_at = read_time(stated.get("expires"))
    record.revision, record.subjects = _revision(stated), parse_list(stated.get("subjects"))
    if isinstance(record.body, Unified) and record.body.private:
        # Rows of earlier versions say it by their source.
        record.owner = read_text(stated.get("owner")) or agent(record.body.source)
    told: Row = envelope if kind is MemoryKind.DOCUMENT else row
    record.agent_id, record.llm_model = read_text(told.get("agent_id")), read_text(told.get("llm_model"))
    record.tools_used = parse_list(told.get("tools_used"))
    return record


def unreadable(kind: MemoryKind, row: Row) -> str:
    """Return why a row that has all columns of a search is no record; an empty text when it is one."""
    stored_id = row.get(Column.ID)
    if not isinstance(stored_id, str) or not stored_id:
        return "its primary key is not text"
    if len(stored_id) > MAX_ID_LENGTH or "\0" in stored_id or read_text(stored_id) != stored_id:
        return f"its primary key is longer than {MAX_ID_LENGTH} characters, or has some that no request can name"
    essential = "entity_name" if kind is MemoryKind.ENTITY else "content"
    text = read_text(row.get(essential))
    if not text:
        return f"its {essential} is empty"
    texts = [value for value in row.values() if isinstance(value, str)]
    # Counting bytes encodes: so few characters cannot be too many.
    if _MOST_BYTES_OF_CHARACTER * sum(map(len, texts)) <= _MAX_CONTENT_BYTES:
        return ""
    if len(text.encode()) > _MAX_CONTENT_BYTES:
        return f"its {essential} has more than {_MAX_CONTENT_BYTES:,} bytes"
    if sum(len(value.encode(errors="replace")) for value in texts) > _MAX_ROW_BYTES:
        return f"its columns have more than {_MAX_ROW_BYTES:,} bytes in all"
    return ""


def record_id(kind: MemoryKind, row: Row) -> str:
    """Return the id of the record that a row holds, whether or not the rest of it can be read."""
    own: str = _envelope(kind, row, _stated_of(kind, row)).get("id", row[Column.ID])
    return own


def is_own(kind: MemoryKind, row: Row) -> bool:
    """Return whether this service has written a row, for the group and the memory id that it carries."""
    return bool(_envelope(kind, row, _stated_of(kind, row)))


def _envelope(kind: MemoryKind, row: Row, stated: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row's envelope; none unless the primary key was made from its id."""
    own = stated.get("id")
    if not isinstance(own, str) or not own or read_text(own) != own:
        return {}
    crew_id = row.get(Column.CREW_ID) if has_column(kind, Column.CREW_ID) else ""
    made = stored_id_of(read_text(row.get(Column.GROUP_ID)), read_text(crew_id), kind, own)
    return stated if made == row[Column.ID] else {}


def _parse_body(kind: MemoryKind, row: Row, document: object, stated: Mapping[str, Any]) -> Body:
    def text(column: str) -> str:
        return read_text(row.get(column))

    match kind:
        case MemoryKind.UNIFIED:
            return Unified(
                content=text("content"),
                scope=text("scope") or "/",
                categories=parse_list(row.get("categories")),
                importance=read_float(row.get("importance")),
                source=text("source"),
                private=parse_boolean(row.get("private")),
                last_accessed=read_time(row.get("last_accessed")),
                session_id=text("session_id"),
            )
        case MemoryKind.SHORT_TERM:
            return ShortTerm(
                content=text("content"),
                query_text=text("query_text"),
                session_id=text("session_id"),
                interaction_sequence=read_integer(row.get("interaction_sequence"), bits=64),
                ttl_hours=read_integer(row.get("ttl_hours"), bits=32),
            )
        case MemoryKind.LONG_TERM:
            return LongTerm(
                content=text("content"),
                task_description=text("task_description"),
                quality=read_float(row.get("quality")),
                importance=read_float(row.get("importance")),
                last_accessed=read_time(row.get("last_accessed")),
            )
        case MemoryKind.ENTITY:
            edges = document.get("relationships") if isinstance(document, dict) else document
            return Entity(
                entity_name=text("entity_name"),
                entity_type=text("entity_type"),
                description=text("description"),
                relationships=read_relationships(edges),
            )
        case MemoryKind.DOCUMENT:
            return Document(
                content=text("content"),
                title=text("title"),
                source=text("source"),
                document_type=text("document_type"),
                section=text("section"),
                chunk_index=read_integer(row.get("chunk_index"), bits=32),
                chunk_size=read_integer(row.get("chunk_size"), bits=32),
                parent_document_id=text("parent_document_id"),
                # Searches do not return the summary.
                document_summary=text("document_summary"),
                agent_ids=parse_list(row.get("agent_ids")),
                updated_at=read_time(row.get("updated_at")),
                **_parse_place(stated.get("part")),
            )


def _parse_place(stated: object) -> dict[str, int]:
    """Return where in its document a part stands, as far as its envelope says it."""
    given = stated if isinstance(stated, dict) else {}
    return {name: max(0, read_integer(given.get(name), bits=bits)) for name, bits in _PLACE.items()}


def _metadata_document(record: Record) -> str:
    """Return the JSON column: the client's own keys, and under ENVELOPE what the schema has no column for."""
    envelope: dict[str, Any] = {"id": record.id}
    if owner := owner_of(record):
        envelope["owner"] = owner
    if record.expires_at is not None:
        envelope["expires"] = format_time(record.expires_at)
    if record.subjects:
        envelope["subjects"] = list(record.subjects)
    if record.revision > 1:
        envelope["revision"] = record.revision
    own: dict[str, Any] = json.loads(record.metadata) if record.metadata != "{}" else {}
    if isinstance(record.body, Entity):
        edges = [[edge.relation, edge.target] for edge in record.body.relationships]
        return canonical_json({"relationships": edges, "metadata": own, ENVELOPE: envelope})
    if isinstance(record.body, Document):
        envelope |= {
            "agent_id": record.agent_id,
            "llm_model": record.llm_model,
            "tools_used": list(record.tools_used),
        }
        place = {name: getattr(record.body, name) for name in _PLACE if getattr(record.body, name)}
        if place:
            envelope["part"] = place
    return canonical_json({**own, ENVELOPE: envelope})


def _json_list(items: tuple[str, ...]) -> str:
    return canonical_json(items) if items else "[]"


def _own_metadata(kind: MemoryKind, document: object) -> dict[str, Any]:
    own = document
    if kind is MemoryKind.ENTITY:
        own = document.get("metadata") if isinstance(document, dict) else None
    return {name: value for name, value in own.items() if name != ENVELOPE} if isinstance(own, dict) else {}


def metadata_of(kind: MemoryKind, row: Row) -> dict[str, Any]:
    """Return the client's own metadata of a row; none where they cannot be read."""
    return _own_metadata(kind, read_json(row[metadata_column(kind)]))


def row_expires_at(kind: MemoryKind, row: Row) -> datetime | None:
    """Return when the record of a row ends, but for the hours of a short-term memory; None if it does not say."""
    text = row.get(metadata_column(kind))
    if not isinstance(text, str) or '"expires"' not in text:
        # Most rows have none, and each is asked: reading their JSON costs more than all else.
        return None
    return read_time(_stated(read_json(text)).get("expires"))


def row_revision(kind: MemoryKind, row: Row) -> int:
    """Return how often the record of a row was saved; once if it does not say."""
    return _revision(_stated_of(kind, row))


def _revision(stated: Mapping[str, Any]) -> int:
    said = stated.get("revision")
    return 1 if said is None else max(1, read_integer(said, bits=32))


def row_ties(kind: MemoryKind, row: Row) -> Ties:
    """Return whom a row is tied to."""
    document = read_json(row[metadata_column(kind)])
    stated = _stated(document)
    named = _own_metadata(kind, document).get("subject")
    return Ties(parse_list(stated.get("subjects")), read_text(stated.get("owner")), named)


def row_owner(row: Row) -> str:
    """Return whose the private record of a unified row is; rows of earlier versions say it by their source."""
    document = read_json(row[Column.METADATA])
    return read_text(_stated(document).get("owner")) or agent(read_text(row[Column.SOURCE]))


def private_owner(kind: MemoryKind, row: Row) -> str | None:
    """Return whose the private record of a row is; None for one that everybody may see."""
    return row_owner(row) if kind is MemoryKind.UNIFIED and parse_boolean(row[Column.PRIVATE]) else None


def _stated_of(kind: MemoryKind, row: Row) -> Mapping[str, Any]:
    return _stated(read_json(row.get(metadata_column(kind))))


def _stated(document: object) -> Mapping[str, Any]:
    """Return the envelope of a JSON column, whoever has written it."""
    envelope = document.get(ENVELOPE) if isinstance(document, dict) else None
    return envelope if isinstance(envelope, dict) else {}


def created_of(row: Row) -> datetime | None:
    """Return when the record of a row was made, or None when the row does not say."""
    for column in (Column.CREATED_AT, Column.TIMESTAMP):
        moment = read_time(row.get(column))
        if moment is not None:
            return moment
    return None


def typed_row(kind: MemoryKind, row: Row) -> dict[str, Any]:
    """Return a row with every value of the type of its column, or None: filters can compare those."""
    return {name: _TYPED[_TYPES[kind].get(name, FieldType.VECTOR)](value) for name, value in row.items()}


def _typed_text(value: object) -> str | None:
    return None if value is None else read_text(value)


def _typed_number(value: object) -> object:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


_TYPES = {kind: {field.name: field.type for field in fields} for kind, fields in _SCHEMAS.items()}
_TYPED: Mapping[FieldType, Callable[[object], Any]] = {
    FieldType.STRING: _typed_text,
    FieldType.INT: _typed_number,
    FieldType.BIGINT: _typed_number,
    FieldType.FLOAT: _typed_number,
    FieldType.BOOLEAN: lambda value: None if value is None else parse_boolean(value),
    FieldType.TIMESTAMP: read_time,
    FieldType.VECTOR: lambda value: value,
}
