"""Number the alerts of each group in the order in which they are stored.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Number those that exist by their ids, which rise with time."""
    op.add_column("budget_alerts", sa.Column("sequence", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "budget_alert_sequences",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_budget_alert_sequences")),
    )
    op.execute(
        "UPDATE budget_alerts SET sequence = (SELECT count(*) FROM budget_alerts AS earlier "
        "WHERE earlier.group_id = budget_alerts.group_id AND earlier.id <= budget_alerts.id)"
    )
    op.execute(
        "INSERT INTO budget_alert_sequences (group_id, last_sequence) "
        "SELECT group_id, max(sequence) FROM budget_alerts GROUP BY group_id"
    )
    op.create_index("ix_budget_alerts_group_id_sequence", "budget_alerts", ["group_id", "sequence"])


def downgrade() -> None:
    """Forget the numbers."""
    op.drop_index("ix_budget_alerts_group_id_sequence", table_name="budget_alerts")
    op.drop_table("budget_alert_sequences")
    op.drop_column("budget_alerts", "sequence")
