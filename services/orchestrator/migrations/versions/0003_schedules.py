"""Start executions by the clock.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument, UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create schedules, and let executions tell which one started them."""
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column(
            "name",
            sa.String(length=128).with_variant(sa.String(length=128, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("cron", sa.String(length=256), nullable=False),
        sa.Column("time_zone", sa.String(length=64), nullable=False),
        sa.Column("start", JsonDocument(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("delegate_id", sa.String(length=64), nullable=False),
        sa.Column("grant_id", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("next_fire_at", UtcDateTime(), nullable=True),
        sa.Column("last_fire_at", UtcDateTime(), nullable=True),
        sa.Column("last_execution_id", sa.String(length=64), nullable=False),
        sa.Column("last_error", JsonDocument(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
    )
    op.create_index("ix_schedules_next_fire_at", "schedules", ["next_fire_at"], unique=False)
    op.create_index(
        "uq_schedules_group_id_name",
        "schedules",
        ["group_id", "name"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.add_column("executions", sa.Column("schedule_id", sa.String(length=64), nullable=False, server_default=""))
    op.create_index(
        "ix_executions_group_id_schedule_id_id", "executions", ["group_id", "schedule_id", "id"], unique=False
    )


def downgrade() -> None:
    """Forget schedules."""
    op.drop_index("ix_executions_group_id_schedule_id_id", table_name="executions")
    op.drop_column("executions", "schedule_id")
    op.drop_table("schedules")
