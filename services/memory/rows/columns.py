"""The columns of every kind of memory, and the only way between a record and a row.

No other module names a column: stores build rows with `build_row`, read them with `parse_row`, and find the few columns
they treat specially under `Column`.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from services.memory.domain.records import MemoryKind


class FieldType(Enum):
    """Types of columns, as the vector store names them."""

    STRING = "string"
    INT = "int"
    BIGINT = "bigint"
    FLOAT = "float"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    VECTOR = "array<float>"


class Column:
    """Columns that stores treat specially."""

    ID: Final = "id"
    EMBEDDING: Final = "embedding"
    EMBEDDING_MODEL: Final = "embedding_model"
    GROUP_ID: Final = "group_id"
    CREW_ID: Final = "crew_id"
    SCOPE: Final = "scope"
    CATEGORIES: Final = "categories"
    IMPORTANCE: Final = "importance"
    SOURCE: Final = "source"
    PRIVATE: Final = "private"
    CREATED_AT: Final = "created_at"
    TIMESTAMP: Final = "timestamp"
    TTL_HOURS: Final = "ttl_hours"
    LAST_ACCESSED: Final = "last_accessed"
    METADATA: Final = "metadata"
    DOC_METADATA: Final = "doc_metadata"
    RELATIONSHIPS: Final = "relationships"
    ENTITY_NAME: Final = "entity_name"
    PARENT_DOCUMENT_ID: Final = "parent_document_id"


@dataclass(frozen=True, slots=True)
class SchemaField:
    """A column."""

    name: str
    type: FieldType


class UnknownMemoryType(ValueError):
    """A name that no schema has."""


def _fields(**types: str) -> tuple[SchemaField, ...]:
    return tuple(SchemaField(name, FieldType(type_name)) for name, type_name in types.items())


_SCHEMAS: Mapping[MemoryKind, tuple[SchemaField, ...]] = {
    MemoryKind.SHORT_TERM: _fields(
        id="string",
        content="string",
        query_text="string",
        session_id="string",
        interaction_sequence="bigint",
        timestamp="string",
        created_at="timestamp",
        ttl_hours="int",
        metadata="string",
        crew_id="string",
        agent_id="string",
        group_id="string",
        llm_model="string",
        tools_used="string",
        embedding="array<float>",
        embedding_model="string",
        version="int",
    ),
    MemoryKind.LONG_TERM: _fields(
        id="string",
        content="string",
        task_description="string",
        task_hash="string",
        quality="float",
        importance="float",
        timestamp="string",
        last_accessed="timestamp",
        metadata="string",
        crew_id="string",
        agent_id="string",
        group_id="string",
        llm_model="string",
        tools_used="string",
        embedding="array<float>",
        embedding_model="string",
        version="int",
    ),
    MemoryKind.ENTITY: _fields(
        id="string",
        entity_name="string",
        entity_type="string",
        description="string",
        relationships="string",
        timestamp="string",
        crew_id="string",
        agent_id="string",
        group_id="string",
        llm_model="string",
        tools_used="string",
        embedding="array<float>",
        embedding_model="string",
    ),
    MemoryKind.DOCUMENT: _fields(
        id="string",
        title="string",
        content="string",
        source="string",
        document_type="string",
        section="string",
        chunk_index="int",
        chunk_size="int",
        parent_document_id="string",
        document_summary="string",
        agent_ids="string",
        created_at="string",
        updated_at="string",
        doc_metadata="string",
        group_id="string",
        embedding="array<float>",
        embedding_model="string",
        version="int",
    ),
    MemoryKind.UNIFIED: _fields(
        id="string",
        content="string",
        scope="string",
        categories="string",
        importance="float",
        source="string",
        private="boolean",
        metadata="string",
        created_at="timestamp",
        last_accessed="timestamp",
        crew_id="string",
        agent_id="string",
        group_id="string",
        session_id="string",
        llm_model="string",
        tools_used="string",
        embedding="array<float>",
        embedding_model="string",
        version="int",
    ),
}
COLUMN_TYPES: Mapping[MemoryKind, Mapping[str, FieldType]] = {
    kind: {field.name: field.type for field in fields} for kind, fields in _SCHEMAS.items()
}
"""The columns of each kind, in the order of its schema."""
_WORDED = {
    MemoryKind.ENTITY: ("entity_name", "entity_type", "description"),
    MemoryKind.DOCUMENT: ("title", "content"),
}
_NOT_SEARCHED = frozenset({"embedding", "document_summary"})
_JSON_COLUMNS = frozenset({"categories", "tools_used", "agent_ids", "relationships"})
_NOT_FILTERABLE = frozenset({"id", "embedding", "document_summary", "group_id", "crew_id", "metadata", "doc_metadata"})


class DatabricksIndexSchemas:
    """The schema of each kind, by its name (`short_term`) or by `MemoryKind`."""

    PRIMARY_KEY: Final = Column.ID
    VECTOR_COLUMN: Final = Column.EMBEDDING
    INDEX_TYPE: Final = "DIRECT_ACCESS"

    @staticmethod
    def kind_of(memory_type: str | MemoryKind) -> MemoryKind:
        """Return the kind of a name.

        Raises:
            UnknownMemoryType: there is none.
        """
        try:
            return memory_type if isinstance(memory_type, MemoryKind) else MemoryKind[memory_type.upper()]
        except KeyError:
            known = ", ".join(kind.name.lower() for kind in MemoryKind)
            raise UnknownMemoryType(f'there is no memory type "{memory_type}"; there are {known}') from None

    @classmethod
    def get_fields(cls, memory_type: str | MemoryKind) -> Sequence[SchemaField]:
        """Return the columns in order."""
        return _SCHEMAS[cls.kind_of(memory_type)]

    @classmethod
    def get_schema(cls, memory_type: str | MemoryKind) -> dict[str, str]:
        """Return the type of each column, in order, as the vector store names it."""
        return {field.name: field.type.value for field in cls.get_fields(memory_type)}

    @classmethod
    def get_search_columns(cls, memory_type: str | MemoryKind) -> list[str]:
        """Return the columns a search asks for, in order."""
        return [field.name for field in cls.get_fields(memory_type) if field.name not in _NOT_SEARCHED]

    @classmethod
    def get_word_columns(cls, memory_type: str | MemoryKind) -> list[str]:
        """Return the columns that make up `Record.searched_text`: a search for words looks at no others."""
        return list(_WORDED.get(cls.kind_of(memory_type), ("content",)))

    @classmethod
    def get_column_positions(cls, memory_type: str | MemoryKind) -> dict[str, int]:
        """Return the position of each column among those a search asks for."""
        return {name: position for position, name in enumerate(cls.get_search_columns(memory_type))}

    @classmethod
    def filterable(cls, memory_type: str | MemoryKind) -> dict[str, FieldType]:
        """Return the columns that conditions may name, with their types."""
        return {f.name: f.type for f in cls.get_fields(memory_type) if f.name not in _NOT_FILTERABLE}

    @classmethod
    def readable(cls, memory_type: str | MemoryKind) -> list[str]:
        """Return the columns of text that a reranking model may read."""
        columns = cls.filterable(memory_type)
        return [name for name, kind in columns.items() if kind is FieldType.STRING and not cls.holds_json(name)]

    @staticmethod
    def holds_json(column: str) -> bool:
        """Return whether a column is a list in JSON, which conditions can only search for words."""
        return column in _JSON_COLUMNS


@functools.cache
def has_column(kind: MemoryKind, column: str) -> bool:
    """Return whether a kind's schema has a column."""
    return column in COLUMN_TYPES[kind]


def metadata_column(kind: MemoryKind) -> str:
    """Return the JSON column that keeps the client's metadata and the envelope."""
    if kind is MemoryKind.ENTITY:
        return Column.RELATIONSHIPS
    return Column.DOC_METADATA if kind is MemoryKind.DOCUMENT else Column.METADATA
