"""Keep answers that are given again.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "stored_answers",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("claimed_by", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "key", name=op.f("pk_stored_answers")),
    )
    op.create_index("ix_stored_answers_group_id_created_at", "stored_answers", ["group_id", "created_at"])
    op.create_index("ix_stored_answers_expires_at", "stored_answers", ["expires_at"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("stored_answers")
