"""Keep the trace that an execution was started in, for the host that runs it.

Revision ID: 0030
Revises: 0029
"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column that is empty in all rows there are."""
    op.add_column("executions", sa.Column("traceparent", sa.String(64), nullable=False, server_default=""))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("executions", "traceparent")
