"""Let models say which parameters they do not take, and whether thoughts stay in their text.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; models that exist keep to what is known of them."""
    op.add_column("models", sa.Column("keep_think_tags", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column(
        "models", sa.Column("unsupported_parameters", JsonDocument(), nullable=False, server_default=sa.text("'[]'"))
    )


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("models", "unsupported_parameters")
    op.drop_column("models", "keep_think_tags")
