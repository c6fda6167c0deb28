"""Let executions be found by labels, subject, reason and time.

Revision ID: 0012
Revises: 0011
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_PAGE = 1000


def upgrade() -> None:
    """Add what lists are filtered by, also for executions that are stored."""
    op.create_table(
        "execution_labels",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("label_hash", sa.String(length=64), nullable=False),
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["executions.id"],
            name=op.f("fk_execution_labels_execution_id_executions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("group_id", "label_hash", "execution_id", name=op.f("pk_execution_labels")),
    )
    op.create_index("ix_execution_labels_execution_id", "execution_labels", ["execution_id"], unique=False)
    op.add_column("executions", sa.Column("error_reason", sa.String(length=64), nullable=False, server_default=""))
    _fill()
    op.create_index("ix_executions_group_id_subject_id", "executions", ["group_id", "subject", "id"], unique=False)
    for name, columns, condition in (
        ("ix_executions_group_id_error_reason_id", ["group_id", "error_reason", "id"], "error_reason <> ''"),
        ("ix_executions_group_id_resumed_from_id", ["group_id", "resumed_from", "id"], "resumed_from <> ''"),
        ("ix_executions_group_id_ended_at", ["group_id", "ended_at"], "ended_at IS NOT NULL"),
    ):
        op.create_index(
            name,
            "executions",
            columns,
            unique=False,
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )


def _fill() -> None:
    executions = sa.table(
        "executions",
        sa.column("id", sa.String),
        sa.column("group_id", sa.String),
        sa.column("labels", JsonDocument),
        sa.column("error", JsonDocument),
        sa.column("error_reason", sa.String),
    )
    labels = sa.table("execution_labels", sa.column("group_id"), sa.column("label_hash"), sa.column("execution_id"))
    connection = op.get_bind()
    after = ""
    while rows := connection.execute(
        sa.select(executions).where(executions.c.id > after).order_by(executions.c.id).limit(_PAGE)
    ).all():
        after = rows[-1].id
        found = [
            {
                "group_id": row.group_id,
                "label_hash": hashlib.sha256(json.dumps(label).encode()).hexdigest(),
                "execution_id": row.id,
            }
            for row in rows
            for label in row.labels.items()
        ]
        if found:
            connection.execute(sa.insert(labels), found)
        for row in rows:
            if row.error is not None:
                reason = row.error["reason"][:64]
                connection.execute(sa.update(executions).where(executions.c.id == row.id).values(error_reason=reason))


def downgrade() -> None:
    """Forget them."""
    for name in (
        "ix_executions_group_id_ended_at",
        "ix_executions_group_id_resumed_from_id",
        "ix_executions_group_id_error_reason_id",
        "ix_executions_group_id_subject_id",
    ):
        op.drop_index(name, table_name="executions")
    op.drop_column("executions", "error_reason")
    op.drop_table("execution_labels")
