"""Let models have options of their provider.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; models that exist have none."""
    op.add_column(
        "models", sa.Column("provider_options", JsonDocument(), nullable=False, server_default=sa.text("'{}'"))
    )


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("models", "provider_options")
