"""Limit what an execution may use, and count its tool calls.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the limits, what counts against them, and the number of tool calls."""
    op.add_column("executions", sa.Column("limits", JsonDocument))
    op.add_column("executions", sa.Column("used_before", JsonDocument))
    for table in ("executions", "task_runs"):
        op.add_column(table, sa.Column("tool_calls", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Forget them."""
    for table in ("executions", "task_runs"):
        op.drop_column(table, "tool_calls")
    op.drop_column("executions", "used_before")
    op.drop_column("executions", "limits")
