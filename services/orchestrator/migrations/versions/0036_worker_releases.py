"""Say of which release each worker host is.

Revision ID: 0036
Revises: 0035
"""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column, which hosts of the release before leave empty."""
    op.add_column("worker_slots", sa.Column("release", sa.String(length=64)))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("worker_slots", "release")
