"""Keep what happens in groups in the order of commits.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the events of groups."""
    op.create_table(
        "group_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("transaction_id", sa.BigInteger(), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("task_index", sa.Integer(), nullable=True),
        sa.Column("task_name", sa.String(length=128), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("stored_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["executions.id"],
            name=op.f("fk_group_events_execution_id_executions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_group_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_group_events_execution_id", "group_events", ["execution_id"], unique=False)
    op.create_index(
        "ix_group_events_group_id_transaction_id_id", "group_events", ["group_id", "transaction_id", "id"], unique=False
    )
    op.create_index("ix_group_events_stored_at", "group_events", ["stored_at"], unique=False)


def downgrade() -> None:
    """Drop the events of groups."""
    op.drop_table("group_events")
