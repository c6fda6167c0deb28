"""Keep with each namespace the name of the crew whose memories it holds.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLES = ("namespaces", "remote_namespaces")


def upgrade() -> None:
    """Add the names, empty until the next save."""
    for table in _TABLES:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("crew_name", sa.String(length=256), nullable=False, server_default=""))


def downgrade() -> None:
    """Drop the names."""
    for table in _TABLES:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("crew_name")
