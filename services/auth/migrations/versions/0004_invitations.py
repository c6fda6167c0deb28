"""Tell who has been invited to a group and has not accepted yet.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let memberships tell when they were offered; those before count as accepted."""
    op.add_column("memberships", sa.Column("invited_at", UtcDateTime(), nullable=True))


def downgrade() -> None:
    """Remove invitations, which would be memberships otherwise, and drop the column."""
    op.execute("DELETE FROM memberships WHERE invited_at IS NOT NULL")
    op.drop_column("memberships", "invited_at")
