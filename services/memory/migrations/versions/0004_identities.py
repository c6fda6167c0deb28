"""Keep with each record the hash by which a save finds the memory that is there already.

Revision ID: 0004
Revises: 0003
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from services.common.db.portions import portions

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TEXTS: Mapping[str, Sequence[str]] = {
    "unified": ("content",),
    "short_term": ("content", "query_text"),
    "long_term": ("content", "task_description"),
    "entity": ("entity_name", "entity_type", "description"),
    "document": ("content",),
}
"""Compared in normal form C and without white space at their end."""
_EXACT: Mapping[str, Sequence[str]] = {
    "unified": ("scope", "private", "source"),
    "short_term": ("session_id", "interaction_sequence"),
    "long_term": (),
    "entity": (),
    "document": ("title", "source", "parent_document_id", "section", "chunk_index", "agent_ids"),
}


def upgrade() -> None:
    """Add the hashes and compute those of the records there are."""
    for kind in _TEXTS:
        name = f"{kind}_records"
        with op.batch_alter_table(name, schema=None) as batch_op:
            batch_op.add_column(sa.Column("identity", sa.String(length=64), nullable=False, server_default=""))
        _fill(kind, name)
        op.create_index(f"ix_{name}_identity", name, ["namespace_id", "identity"], unique=False)


def downgrade() -> None:
    """Drop the hashes."""
    for kind in _TEXTS:
        op.drop_index(f"ix_{kind}_records_identity", table_name=f"{kind}_records")
        with op.batch_alter_table(f"{kind}_records", schema=None) as batch_op:
            batch_op.drop_column("identity")


def _fill(kind: str, name: str) -> None:
    columns = (*_TEXTS[kind], *_EXACT[kind])
    table = sa.table(name, sa.column("id"), sa.column("identity"), *map(sa.column, columns))
    connection = op.get_bind()
    for rows in portions(connection, table, columns):
        new = [{"row_id": row.id, "hash": _identity(kind, dict(row._mapping))} for row in rows]  # noqa: SLF001
        connection.execute(
            sa.update(table).where(table.c.id == sa.bindparam("row_id")).values(identity=sa.bindparam("hash")), new
        )


def _identity(kind: str, row: Mapping[str, Any]) -> str:
    texts = [unicodedata.normalize("NFC", row[column]).rstrip() for column in _TEXTS[kind]]
    if kind == "unified":
        private, source = bool(row["private"]), row["source"]
        exact = [row["scope"], str(private), f"agent:{source}" if private and source else ""]
    elif kind == "document":
        *parts, agent_ids = (row[column] for column in _EXACT[kind])
        exact = [*map(str, parts), *sorted(json.loads(agent_ids or "[]"))]
    else:
        exact = [str(row[column]) for column in _EXACT[kind]]
    hashed = hashlib.sha256()
    for part in (kind.upper(), *texts, *exact):
        encoded = part.encode()
        hashed.update(len(encoded).to_bytes(8, "big"))
        hashed.update(encoded)
    return hashed.hexdigest()
