"""What a row of a store says of itself, whoever has written it.

A row of this service has an envelope in its JSON column with the id that the client gave; its primary key is made from
that id. Any other row is a record, too: its id is its primary key.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from services.memory.domain.namespaces import stored_id_of
from services.memory.domain.owners import agent
from services.memory.domain.records import MemoryKind
from services.memory.domain.subjects import Ties
from services.memory.rows.columns import COLUMN_TYPES, Column, FieldType, has_column, metadata_column
from services.memory.rows.values import parse_boolean, parse_list, read_integer, read_json, read_text, read_time

Row = Mapping[str, Any]


ENVELOPE: Final = "_coxswain"
"""Key within a row's JSON column that keeps what its schema has no column for: the client's own id above all."""


PLACE_BITS: Final = {"page": 32, "start_character": 64, "document_revision": 64, "part_count": 32}
"""What parts of documents have no column for, and the bits of each."""


def record_id(kind: MemoryKind, row: Row) -> str:
    """Return the id of the record that a row holds, whether or not the rest of it can be read."""
    own: str = own_envelope(kind, row, _stated_of(kind, row)).get("id", row[Column.ID])
    return own


def is_own(kind: MemoryKind, row: Row) -> bool:
    """Return whether this service has written a row, for the group and the memory id that it carries."""
    return bool(own_envelope(kind, row, _stated_of(kind, row)))


def own_envelope(kind: MemoryKind, row: Row, stated: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row's envelope; none unless the primary key was made from its id."""
    own = stated.get("id")
    if not isinstance(own, str) or not own or read_text(own) != own:
        return {}
    crew_id = row.get(Column.CREW_ID) if has_column(kind, Column.CREW_ID) else ""
    made = stored_id_of(read_text(row.get(Column.GROUP_ID)), read_text(crew_id), kind, own)
    return stated if made == row[Column.ID] else {}


def own_metadata(kind: MemoryKind, document: object) -> dict[str, Any]:
    """Return the client's own metadata in a JSON column; none where they cannot be read."""
    own = document
    if kind is MemoryKind.ENTITY:
        own = document.get("metadata") if isinstance(document, dict) else None
    return {name: value for name, value in own.items() if name != ENVELOPE} if isinstance(own, dict) else {}


def metadata_of(kind: MemoryKind, row: Row) -> dict[str, Any]:
    """Return the client's own metadata of a row; none where they cannot be read."""
    return own_metadata(kind, read_json(row[metadata_column(kind)]))


def row_expires_at(kind: MemoryKind, row: Row) -> datetime | None:
    """Return when the record of a row ends, but for the hours of a short-term memory; None if it does not say."""
    text = row.get(metadata_column(kind))
    if not isinstance(text, str) or '"expires"' not in text:
        # Most rows have none, and each is asked: reading their JSON costs more than all else.
        return None
    return read_time(stated_envelope(read_json(text)).get("expires"))


def row_revision(kind: MemoryKind, row: Row) -> int:
    """Return how often the record of a row was saved; once if it does not say."""
    return stated_revision(_stated_of(kind, row))


def stated_revision(stated: Mapping[str, Any]) -> int:
    """Return how often a record was saved, as its envelope says; once if it does not say."""
    said = stated.get("revision")
    return 1 if said is None else max(1, read_integer(said, bits=32))


def row_ties(kind: MemoryKind, row: Row) -> Ties:
    """Return whom a row is tied to."""
    document = read_json(row[metadata_column(kind)])
    stated = stated_envelope(document)
    named = own_metadata(kind, document).get("subject")
    return Ties(parse_list(stated.get("subjects")), read_text(stated.get("owner")), named)


def row_owner(row: Row) -> str:
    """Return whose the private record of a unified row is; rows of earlier versions say it by their source."""
    document = read_json(row[Column.METADATA])
    return read_text(stated_envelope(document).get("owner")) or agent(read_text(row[Column.SOURCE]))


def private_owner(kind: MemoryKind, row: Row) -> str | None:
    """Return whose the private record of a row is; None for one that everybody may see."""
    return row_owner(row) if kind is MemoryKind.UNIFIED and parse_boolean(row[Column.PRIVATE]) else None


def _stated_of(kind: MemoryKind, row: Row) -> Mapping[str, Any]:
    return stated_envelope(read_json(row.get(metadata_column(kind))))


def stated_envelope(document: object) -> Mapping[str, Any]:
    """Return the envelope of a JSON column, whoever has written it; see `own_envelope`."""
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
    return {name: _TYPED[COLUMN_TYPES[kind].get(name, FieldType.VECTOR)](value) for name, value in row.items()}


def _typed_text(value: object) -> str | None:
    return None if value is None else read_text(value)


def _typed_number(value: object) -> object:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


_TYPED: Mapping[FieldType, Callable[[object], Any]] = {
    FieldType.STRING: _typed_text,
    FieldType.INT: _typed_number,
    FieldType.BIGINT: _typed_number,
    FieldType.FLOAT: _typed_number,
    FieldType.BOOLEAN: lambda value: None if value is None else parse_boolean(value),
    FieldType.TIMESTAMP: read_time,
    FieldType.VECTOR: lambda value: value,
}
