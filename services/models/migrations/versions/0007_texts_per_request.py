"""Let models say how many texts their upstream embeds at once.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; models that exist leave it to the installation."""
    op.add_column(
        "models", sa.Column("max_texts_per_request", sa.Integer(), nullable=False, server_default=sa.text("0"))
    )


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("models", "max_texts_per_request")
