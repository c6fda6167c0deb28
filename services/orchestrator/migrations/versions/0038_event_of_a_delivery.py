"""Keep with a delivery without an execution which event it tells of: it is made once.

Revision ID: 0038
Revises: 0037
"""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

_INDEX = "uq_webhook_deliveries_webhook_id_event_id"


def upgrade() -> None:
    """Add the column; the rows that are there have none."""
    op.add_column("webhook_deliveries", sa.Column("event_id", sa.BigInteger()))
    known = sa.text("event_id IS NOT NULL")
    op.create_index(
        _INDEX,
        "webhook_deliveries",
        ["webhook_id", "event_id"],
        unique=True,
        sqlite_where=known,
        postgresql_where=known,
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_index(_INDEX, table_name="webhook_deliveries")
    op.drop_column("webhook_deliveries", "event_id")
