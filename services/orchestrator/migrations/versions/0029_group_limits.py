"""Count the executions of groups that have not ended, and let few of them run at once.

Revision ID: 0029
Revises: 0028
"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_OPEN = sa.text("ended_at IS NULL")


def upgrade() -> None:
    """Add an index and a table."""
    op.create_index(
        "ix_executions_group_id",
        "executions",
        ["group_id"],
        unique=False,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
    op.create_table(
        "running_limits",
        sa.Column("group_id", sa.String(128), nullable=False),
        sa.Column("max_running", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name="pk_running_limits"),
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("running_limits")
    op.drop_index("ix_executions_group_id", table_name="executions")
