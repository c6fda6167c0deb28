"""Limit what calls cost in a minute.

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
    """Add the column; budgets that exist have no such limit."""
    op.add_column("budgets", sa.Column("cost_per_minute", sa.Float(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop it; such limits are lost."""
    op.drop_column("budgets", "cost_per_minute")
