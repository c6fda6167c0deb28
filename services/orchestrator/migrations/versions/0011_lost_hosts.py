"""Count the hosts that an execution has lost.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Begin to count."""
    for name in ("lost_hosts", "lost_hosts_after"):
        op.add_column("executions", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Forget the count."""
    for name in ("lost_hosts", "lost_hosts_after"):
        op.drop_column("executions", name)
