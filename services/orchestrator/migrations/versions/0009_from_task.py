"""Keep the task from which an execution runs another one again.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the name, empty in what is stored already."""
    op.add_column("executions", sa.Column("from_task", sa.String(length=128), nullable=False, server_default=""))


def downgrade() -> None:
    """Forget the names."""
    op.drop_column("executions", "from_task")
