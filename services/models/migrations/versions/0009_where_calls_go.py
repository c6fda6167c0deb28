"""Let models have several deployments, and other models in their place.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; models that exist have neither."""
    op.add_column("models", sa.Column("fallbacks", JsonDocument(), nullable=False, server_default=sa.text("'{}'")))
    op.add_column("models", sa.Column("deployments", JsonDocument(), nullable=False, server_default=sa.text("'[]'")))


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("models", "deployments")
    op.drop_column("models", "fallbacks")
