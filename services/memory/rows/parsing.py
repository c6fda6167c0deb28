"""Records, read from rows of a store, whoever has written them."""

from collections.abc import Mapping
from typing import Any, Final

from services.memory.domain.owners import agent
from services.memory.domain.records import Body, Document, Entity, LongTerm, MemoryKind, Record, ShortTerm, Unified
from services.memory.rows.columns import Column, metadata_column
from services.memory.rows.row import (
    PLACE_BITS,
    Row,
    created_of,
    own_envelope,
    own_metadata,
    stated_envelope,
    stated_revision,
)
from services.memory.rows.values import (
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

MAX_ID_LENGTH: Final = 256
"""Characters of an id that requests can name."""


_MAX_CONTENT_BYTES = 1024 * 1024


_MAX_ROW_BYTES = 5 * 512 * 1024
"""All texts of a row: a record has to fit in a message."""


_MOST_BYTES_OF_CHARACTER: Final = 4


class UnreadableRow(ValueError):
    """A row that is no record, and why; its text never shows what the row holds."""


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
    stated = stated_envelope(document)
    envelope = own_envelope(kind, row, stated)
    stored_id: str = row[Column.ID]
    record = Record(
        id=envelope.get("id", stored_id),
        body=_parse_body(kind, row, document, stated),
        embedding=read_vector(row.get(Column.EMBEDDING)),
        metadata=read_object(own_metadata(kind, document)),
        created_at=created_of(row),
        stored_id=stored_id,
    )
    record.expires_at = read_time(stated.get("expires"))
    record.revision, record.subjects = stated_revision(stated), parse_list(stated.get("subjects"))
    if isinstance(record.body, Unified) and record.body.private:
        # Rows of earlier versions say it by their source.
        record.owner = read_text(stated.get("owner")) or agent(record.body.source)
    holder: Row = envelope if kind is MemoryKind.DOCUMENT else row
    record.agent_id, record.llm_model = read_text(holder.get("agent_id")), read_text(holder.get("llm_model"))
    record.tools_used = parse_list(holder.get("tools_used"))
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
    characters = 0
    for value in row.values():
        if isinstance(value, str):
            characters += len(value)
    # Counting bytes encodes: so few characters cannot be too many.
    if _MOST_BYTES_OF_CHARACTER * characters <= _MAX_CONTENT_BYTES:
        return ""
    if len(text.encode()) > _MAX_CONTENT_BYTES:
        return f"its {essential} has more than {_MAX_CONTENT_BYTES:,} bytes"
    if sum(len(value.encode(errors="replace")) for value in row.values() if isinstance(value, str)) > _MAX_ROW_BYTES:
        return f"its columns have more than {_MAX_ROW_BYTES:,} bytes in all"
    return ""


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
    return {name: max(0, read_integer(given.get(name), bits=bits)) for name, bits in PLACE_BITS.items()}
