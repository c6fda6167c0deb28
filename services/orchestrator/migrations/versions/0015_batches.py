"""Run one crew with many inputs.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument, UtcDateTime

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create batches, and let executions tell which one they belong to."""
    op.create_table(
        "batches",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("crew_name", sa.String(length=256), nullable=False),
        sa.Column("start", JsonDocument(), nullable=False),
        sa.Column("max_parallel", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("started", sa.Integer(), nullable=False),
        sa.Column("grant_id", sa.String(length=64), nullable=False),
        sa.Column("grant_open", sa.Boolean(), nullable=False),
        sa.Column("cancel_requested_at", UtcDateTime(), nullable=True),
        sa.Column("error", JsonDocument(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index("ix_batches_group_id_id", "batches", ["group_id", "id"], unique=False)
    op.create_index("ix_batches_group_id_ended_at", "batches", ["group_id", "ended_at"], unique=False)
    op.create_index("ix_batches_grant_open_id", "batches", ["grant_open", "id"], unique=False)
    op.create_table(
        "batch_inputs",
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("inputs", JsonDocument(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_batch_inputs_batch_id_batches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "part", name=op.f("pk_batch_inputs")),
    )
    op.add_column("executions", sa.Column("batch_id", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("executions", sa.Column("batch_index", sa.Integer(), nullable=True))
    for name, columns, condition in (
        ("ix_executions_group_id_batch_id_id", ["group_id", "batch_id", "id"], "batch_id <> ''"),
        ("ix_executions_batch_id", ["batch_id"], "batch_id <> '' AND ended_at IS NULL"),
    ):
        op.create_index(
            name,
            "executions",
            columns,
            unique=False,
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )


def downgrade() -> None:
    """Forget batches; their executions stay."""
    op.drop_index("ix_executions_batch_id", table_name="executions")
    op.drop_index("ix_executions_group_id_batch_id_id", table_name="executions")
    op.drop_column("executions", "batch_index")
    op.drop_column("executions", "batch_id")
    op.drop_table("batch_inputs")
    op.drop_table("batches")
