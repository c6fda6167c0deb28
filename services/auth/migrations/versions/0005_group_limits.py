"""Keep what the operator allows groups, and what is left of it that processes share.

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

_COUNTS = (
    "calls_per_minute",
    "calls_burst",
    "max_open_streams",
    "max_open_streams_per_subject",
    "max_open_executions",
    "max_running_executions",
    "max_crews",
    "max_schedules",
    "max_members",
    "max_secrets",
    "max_models",
    "model_calls_per_minute",
    "max_records",
    "max_stored_bytes",
)


def upgrade() -> None:
    """Create the tables: no group has limits of its own."""
    op.create_table(
        "group_limits",
        sa.Column("group_id", sa.String(128), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in _COUNTS),
        sa.Column("monthly_cost_ceiling", sa.Float(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name="pk_group_limits"),
    )
    op.create_table(
        "group_calls",
        sa.Column("group_id", sa.String(128), nullable=False),
        sa.Column("calls_left", sa.Float(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name="pk_group_calls"),
    )
    op.create_index("ix_group_calls_updated_at", "group_calls", ["updated_at"])
    op.create_table(
        "group_streams",
        sa.Column("group_id", sa.String(128), nullable=False),
        sa.Column("process_id", sa.String(64), nullable=False),
        sa.Column("open_streams", sa.Integer(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "process_id", name="pk_group_streams"),
    )
    op.create_index("ix_group_streams_updated_at", "group_streams", ["updated_at"])


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("group_streams")
    op.drop_table("group_calls")
    op.drop_table("group_limits")
