"""What calls of tools have used.

Revision ID: 0028
Revises: 0027
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from services.common.db.types import UtcDateTime

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "tool_usage",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("crew", sa.String(length=256), nullable=False),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("tool", sa.String(length=192), nullable=False),
        sa.Column("labels", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
        sa.Column("called_at", UtcDateTime(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("argument_bytes", sa.BigInteger(), nullable=False),
        sa.Column("result_bytes", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", "execution_id", name=op.f("pk_tool_usage")),
    )
    op.create_index("ix_tool_usage_group_id_called_at", "tool_usage", ["group_id", "called_at"])
    op.create_index("ix_tool_usage_group_id_execution_id", "tool_usage", ["group_id", "execution_id"])


def downgrade() -> None:
    """Remove it."""
    op.drop_table("tool_usage")
