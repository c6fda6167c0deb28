"""The memory service's tables: namespaces, and one table of records for each kind, made from its schema."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from services.common.db.idempotency import requests_table
from services.common.db.types import NAMING_CONVENTION, JsonDocument, UtcDateTime
from services.common.errors import FailedPrecondition
from services.memory.domain.records import MemoryKind
from services.memory.rows.columns import Column as SchemaColumn
from services.memory.rows.columns import DatabricksIndexSchemas, FieldType

metadata = MetaData(naming_convention=NAMING_CONVENTION)

# Stored numbers: never change one.
_KIND_NUMBERS: Mapping[MemoryKind, int] = {
    MemoryKind.UNIFIED: 1,
    MemoryKind.SHORT_TERM: 2,
    MemoryKind.LONG_TERM: 3,
    MemoryKind.ENTITY: 4,
    MemoryKind.DOCUMENT: 5,
}
_KINDS = {number: kind for kind, number in _KIND_NUMBERS.items()}


def kind_of_number(number: int) -> MemoryKind | None:
    """Return the kind of a stored number; None when there is none, as something else has written it."""
    return _KINDS.get(number)


class KindNumber(TypeDecorator[MemoryKind]):
    """A kind as its number, by which listings are sorted."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: MemoryKind | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Return the number of a kind."""
        return None if value is None else _KIND_NUMBERS[value]

    def process_result_value(self, value: int | None, dialect: Dialect) -> MemoryKind | None:  # noqa: ARG002
        """Return the kind of a number.

        Raises:
            FailedPrecondition: it is the number of none.
        """
        kind = None if value is None else kind_of_number(value)
        if value is None or kind is not None:
            return kind
        raise FailedPrecondition(
            f"a row of memory is of kind {value}, which this version does not know: something else has written it, "
            "or a later version",
            reason="STORE_FAILED",
            metadata={"http_status": "", "error_code": "UNKNOWN_KIND"},
        )


namespaces = Table(
    "namespaces",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("group_id", String(128), nullable=False),
    Column("crew_id", String(128), nullable=False),
    Column("kind", KindNumber, nullable=False),
    Column("embedding_model", String(128), nullable=False),
    Column("embedding_dimension", Integer, nullable=False),
    # Rises with every change; a search compares it with what it remembers.
    Column("version", BigInteger, nullable=False),
    # The version of the last change that took records away: from there on remembered rows cannot be added to.
    Column("removal_version", BigInteger, nullable=False),
    Column("record_count", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("crew_name", String(256), nullable=False, server_default=""),
    UniqueConstraint("group_id", "crew_id", "kind"),
)

_TYPES: Mapping[FieldType, TypeEngine[Any]] = {
    FieldType.STRING: Text(),
    FieldType.INT: BigInteger(),
    FieldType.BIGINT: BigInteger(),
    FieldType.FLOAT: Float(53),
    FieldType.BOOLEAN: Boolean(),
    FieldType.TIMESTAMP: UtcDateTime(),
    FieldType.VECTOR: LargeBinary(),
}


def _records(kind: MemoryKind) -> Table:
    name = f"{kind.name.lower()}_records"
    return Table(
        name,
        metadata,
        *(
            Column(
                field.name,
                String(64) if field.name == SchemaColumn.ID else _TYPES[field.type],
                primary_key=field.name == SchemaColumn.ID,
                nullable=field.name == SchemaColumn.LAST_ACCESSED,
            )
            for field in DatabricksIndexSchemas.get_fields(kind)
        ),
        Column("namespace_id", String(64), ForeignKey("namespaces.id", ondelete="CASCADE"), nullable=False),
        # Microseconds since 1970: the order of lists for all kinds, which name their times differently.
        Column("created_us", BigInteger, nullable=False),
        Column("expires_us", BigInteger, nullable=True),
        # The namespace's version that wrote the row.
        Column("written_version", BigInteger, nullable=False),
        # Since when it says what it says, in microseconds since 1970; NULL in rows of versions without history.
        Column("saved_us", BigInteger, nullable=True),
        # The hash that records share which are the same memory.
        Column("identity", String(64), nullable=False, server_default=""),
        Index(f"ix_{name}_order", "namespace_id", "created_us", SchemaColumn.ID),
        Index(f"ix_{name}_written", "namespace_id", "written_version"),
        Index(f"ix_{name}_identity", "namespace_id", "identity"),
        # Whose it is, if it is private.
        *([Column("owner", String(600), nullable=False, server_default="")] if kind is MemoryKind.UNIFIED else []),
        Index(f"ix_{name}_expiry", "expires_us"),
        *(
            [Index(f"ix_{name}_parent", "namespace_id", SchemaColumn.PARENT_DOCUMENT_ID)]
            if kind is MemoryKind.DOCUMENT
            else []
        ),
    )


records: Mapping[MemoryKind, Table] = {kind: _records(kind) for kind in MemoryKind}


def _versions(kind: MemoryKind) -> Table:
    name = f"{kind.name.lower()}_versions"
    return Table(
        name,
        metadata,
        # Greater than that of every version of the same record that ended earlier.
        Column("place", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
        *(
            Column(
                field.name,
                String(64) if field.name == SchemaColumn.ID else _TYPES[field.type],
                nullable=field.name == SchemaColumn.LAST_ACCESSED,
            )
            for field in DatabricksIndexSchemas.get_fields(kind)
            if field.name != SchemaColumn.EMBEDDING
        ),
        Column("namespace_id", String(64), ForeignKey("namespaces.id", ondelete="CASCADE"), nullable=False),
        *([Column("owner", String(600), nullable=False, server_default="")] if kind is MemoryKind.UNIFIED else []),
        # From when until when it was the record, in microseconds since 1970; what ended it, and who.
        Column("begun_us", BigInteger, nullable=False),
        Column("ended_us", BigInteger, nullable=False),
        Column("ended_by", String(16), nullable=False),
        Column("changed_by", String(600), nullable=False),
        Index(f"ix_{name}_record", "namespace_id", SchemaColumn.ID, "place"),
        Index(f"ix_{name}_ended", SchemaColumn.GROUP_ID, "ended_us"),
    )


# What records said before they were replaced or deleted. Documents are replaced as a whole and have none.
versions: Mapping[MemoryKind, Table] = {kind: _versions(kind) for kind in MemoryKind if kind is not MemoryKind.DOCUMENT}

# How long groups keep former versions; a group without a row follows the installation's default.
history_policies = Table(
    "history_policies",
    metadata,
    Column("group_id", String(128), primary_key=True),
    Column("days", Integer, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

# The words of each record, which are written and removed with it. Rows are numbered for SQLite's index of them,
# record_words_fts, which triggers of this table keep: it is made by a migration, as is PostgreSQL's.
record_words = Table(
    "record_words",
    metadata,
    Column("doc", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    Column("record_id", String(64), nullable=False, unique=True),
    Column("namespace_id", String(64), ForeignKey("namespaces.id", ondelete="CASCADE"), nullable=False),
    Column("words", Text().with_variant(TSVECTOR(), "postgresql"), nullable=False),
)

memory_backends = Table(
    "memory_backends",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("group_id", String(128), nullable=False),
    Column("name", String(128), nullable=False),
    # The workspace and indexes that hold the memories, or the database; both NULL for the embedded default.
    Column("databricks", JsonDocument, nullable=True),
    Column("pgvector", JsonDocument, nullable=True),
    Column("disabled_kinds", JsonDocument, nullable=False),
    # The endpoint that this backend made, which it may therefore remove.
    Column("made_endpoint", String(128), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("group_id", "name"),
)

requests = requests_table(metadata)

# A group without a row uses the embedded default.
active_backends = Table(
    "active_backends",
    metadata,
    Column("group_id", String(128), primary_key=True),
    Column("backend_id", String(64), ForeignKey("memory_backends.id"), nullable=False, unique=True),
)

# What backends name, by itself: whether an index is a group's own, and whether others share it.
registered_indexes = Table(
    "registered_indexes",
    metadata,
    Column("backend_id", String(64), ForeignKey("memory_backends.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", KindNumber, primary_key=True),
    Column("group_id", String(128), nullable=False),
    Column("workspace_url", String(512), nullable=False),
    Column("index_name", String(400), nullable=False),
    Index("ix_registered_indexes_name", "index_name", "workspace_url"),
    Index("ix_registered_indexes_group", "group_id"),
)

# Which crews have written to a remote store, which cannot list them itself.
remote_namespaces = Table(
    "remote_namespaces",
    metadata,
    Column("backend_id", String(64), ForeignKey("memory_backends.id", ondelete="CASCADE"), primary_key=True),
    Column("crew_id", String(128), primary_key=True),
    Column("kind", KindNumber, primary_key=True),
    Column("group_id", String(128), nullable=False),
    Column("crew_name", String(256), nullable=False, server_default=""),
)

# Documents that were saved as a whole; their parts are records of kind DOCUMENT in the group's store.
documents = Table(
    "documents",
    metadata,
    # Made of the group, the backend and the document's own id.
    Column("id", String(64), primary_key=True),
    Column("group_id", String(128), nullable=False),
    # NULL for the default store.
    Column("backend_id", String(64), ForeignKey("memory_backends.id", ondelete="CASCADE"), nullable=True),
    Column("document_id", String(256), nullable=False),
    # What is known of it, as it is shown. Before revision 1: what parts that are being saved bring, or NULL.
    Column("document", JsonDocument, nullable=True),
    # The revision whose parts count, and the last one that a save has begun.
    Column("revision", BigInteger, nullable=False),
    Column("last_revision", BigInteger, nullable=False),
    # Parts that may be in the store and do not count, as [revision, number, until when others may write them]: the next
    # save or removal takes them away.
    Column("stale", JsonDocument, nullable=False),
    Column("subjects", JsonDocument, nullable=False),
    Column("expires_us", BigInteger, nullable=True),
    # When everything has ended or failed that has begun with it and its parts; NULL when all has ended.
    Column("due_us", BigInteger, nullable=True),
    Index("ix_documents_group", "group_id", "backend_id", "document_id"),
    Index("ix_documents_expiry", "expires_us"),
    Index("ix_documents_due", "due_us"),
)
