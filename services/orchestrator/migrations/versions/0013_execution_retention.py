"""Let groups choose for how long executions are kept.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the choices."""
    op.create_table(
        "execution_retention",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_execution_retention")),
    )


def downgrade() -> None:
    """Forget the choices."""
    op.drop_table("execution_retention")
