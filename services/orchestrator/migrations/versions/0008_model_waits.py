"""Keep what an execution waits for when the provider of a model fails, and when it is woken.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument, UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both, empty in what is stored already."""
    op.add_column("executions", sa.Column("model_waits", JsonDocument()))
    op.add_column("executions", sa.Column("wake_at", UtcDateTime()))
    op.create_index(
        "ix_executions_wake_at",
        "executions",
        ["wake_at"],
        sqlite_where=sa.text("wake_at IS NOT NULL"),
        postgresql_where=sa.text("wake_at IS NOT NULL"),
    )


def downgrade() -> None:
    """Wake nobody any more."""
    op.drop_index("ix_executions_wake_at", "executions")
    op.drop_column("executions", "wake_at")
    op.drop_column("executions", "model_waits")
