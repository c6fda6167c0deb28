"""Note the lock by which the death of a worker host shows at once.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the lock's key; hosts of the release before leave it empty."""
    op.add_column("worker_leases", sa.Column("lock_key", sa.BigInteger()))


def downgrade() -> None:
    """Forget it: leases alone count again."""
    op.drop_column("worker_leases", "lock_key")
