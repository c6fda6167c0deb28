"""Keep what records said before, and for how long each group wants it kept.

Revision ID: 0010
Revises: 0009
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TEXT, _REAL, _WHOLE, _TIME = sa.Text(), sa.Float(precision=53), sa.BigInteger(), UtcDateTime()
_COMMON = dict.fromkeys(("crew_id", "agent_id", "group_id", "llm_model", "tools_used", "embedding_model"), _TEXT)
_COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "unified": {
        "content": _TEXT,
        "scope": _TEXT,
        "categories": _TEXT,
        "importance": _REAL,
        "source": _TEXT,
        "private": sa.Boolean(),
        "metadata": _TEXT,
        "created_at": _TIME,
        "last_accessed": _TIME,
        "session_id": _TEXT,
        "version": _WHOLE,
    },
    "short_term": {
        "content": _TEXT,
        "query_text": _TEXT,
        "session_id": _TEXT,
        "interaction_sequence": _WHOLE,
        "timestamp": _TEXT,
        "created_at": _TIME,
        "ttl_hours": _WHOLE,
        "metadata": _TEXT,
        "version": _WHOLE,
    },
    "long_term": {
        "content": _TEXT,
        "task_description": _TEXT,
        "task_hash": _TEXT,
        "quality": _REAL,
        "importance": _REAL,
        "timestamp": _TEXT,
        "last_accessed": _TIME,
        "metadata": _TEXT,
        "version": _WHOLE,
    },
    "entity": {
        "entity_name": _TEXT,
        "entity_type": _TEXT,
        "description": _TEXT,
        "relationships": _TEXT,
        "timestamp": _TEXT,
    },
}
_RECORDS = (*_COLUMNS, "document")


def upgrade() -> None:
    """Add the tables, and to each record since when it says what it says; rows that are there do not know."""
    for kind in _RECORDS:
        op.add_column(f"{kind}_records", sa.Column("saved_us", sa.BigInteger(), nullable=True))
    op.create_table(
        "history_policies",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name="pk_history_policies"),
    )
    for kind, columns in _COLUMNS.items():
        _create_versions(f"{kind}_versions", columns, owned=kind == "unified")


def _create_versions(name: str, columns: Mapping[str, Any], *, owned: bool) -> None:
    owner = [sa.Column("owner", sa.String(length=600), server_default="", nullable=False)] if owned else []
    op.create_table(
        name,
        sa.Column("place", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        *(
            sa.Column(column, type_, nullable=column == "last_accessed")
            for column, type_ in {**columns, **_COMMON}.items()
        ),
        sa.Column("namespace_id", sa.String(length=64), nullable=False),
        *owner,
        sa.Column("begun_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_by", sa.String(length=16), nullable=False),
        sa.Column("changed_by", sa.String(length=600), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"], name=f"fk_{name}_namespace_id_namespaces", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("place", name=f"pk_{name}"),
    )
    op.create_index(f"ix_{name}_ended", name, ["ended_us"], unique=False)
    op.create_index(f"ix_{name}_record", name, ["namespace_id", "id", "place"], unique=False)


def downgrade() -> None:
    """Give up the history."""
    for kind in _COLUMNS:
        op.drop_table(f"{kind}_versions")
    op.drop_table("history_policies")
    for kind in _RECORDS:
        op.drop_column(f"{kind}_records", "saved_us")
