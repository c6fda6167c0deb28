"""Tell whose access was changed or revoked.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep the newest change of each subject and group."""
    op.create_table(
        "access_changes",
        sa.Column("subject", sa.String(512), nullable=False),
        sa.Column("group_id", sa.String(128), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("subject", "group_id", name=op.f("pk_access_changes")),
    )
    op.create_index(op.f("ix_access_changes_changed_at"), "access_changes", ["changed_at"])


def downgrade() -> None:
    """Forget them: credentials that were revoked and have not expired are accepted again."""
    op.drop_table("access_changes")
