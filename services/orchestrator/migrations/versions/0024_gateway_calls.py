"""Store what the tool gateway knows of calls.

Revision ID: 0024
Revises: 0023
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_OPEN = sa.text("ended_at IS NULL")
_KEPT = sa.text("outcome IS NOT NULL")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "gateway_calls",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("call_id", sa.String(length=64), nullable=False),
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=256), nullable=False),
        sa.Column("sent_at", UtcDateTime(), nullable=False),
        sa.Column("replica", sa.String(length=64), nullable=False),
        sa.Column("leased_until", UtcDateTime(), nullable=False),
        sa.Column("handle", sa.LargeBinary(), nullable=True),
        sa.Column("outcome", sa.LargeBinary(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("question", sa.LargeBinary(), nullable=True),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("group_id", "call_id", name="pk_gateway_calls"),
    )
    op.create_index("ix_gateway_calls_execution_id", "gateway_calls", ["execution_id"])
    op.create_index("ix_gateway_calls_group_id_source_sent_at", "gateway_calls", ["group_id", "source", "sent_at"])
    op.create_index(
        "ix_gateway_calls_replica", "gateway_calls", ["replica"], sqlite_where=_OPEN, postgresql_where=_OPEN
    )
    op.create_index(
        "ix_gateway_calls_ended_at", "gateway_calls", ["ended_at"], sqlite_where=_KEPT, postgresql_where=_KEPT
    )


def downgrade() -> None:
    """Remove the table; outcomes that nobody has taken are lost."""
    op.drop_table("gateway_calls")
