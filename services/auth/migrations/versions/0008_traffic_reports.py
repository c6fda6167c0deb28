"""Count no report of calls twice.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep the number of the newest report of each process."""
    op.create_table(
        "traffic_reports",
        sa.Column("process_id", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("process_id", name=op.f("pk_traffic_reports")),
    )
    op.create_index(op.f("ix_traffic_reports_updated_at"), "traffic_reports", ["updated_at"])


def downgrade() -> None:
    """Forget them."""
    op.drop_table("traffic_reports")
