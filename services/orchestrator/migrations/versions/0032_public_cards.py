"""Keep which published crews show their card to anybody.

Revision ID: 0032
Revises: 0031
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column and an index."""
    op.add_column("publications", sa.Column("public_card", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("uq_publications_tenant", "publications", ["tenant"], unique=True)


def downgrade() -> None:
    """Remove them."""
    op.drop_index("uq_publications_tenant", table_name="publications")
    op.drop_column("publications", "public_card")
