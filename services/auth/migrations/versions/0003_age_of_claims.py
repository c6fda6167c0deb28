"""Tell how old the role is that came from a credential.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let grants tell when the role was claimed; those before were made at that moment."""
    op.add_column("grants", sa.Column("claimed_at", UtcDateTime(), nullable=True))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("grants", "claimed_at")
