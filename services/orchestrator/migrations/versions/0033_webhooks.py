"""Keep the addresses to which events of groups are posted, and what is posted.

Revision ID: 0033
Revises: 0032
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument, UtcDateTime

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("group_id", sa.String(128), nullable=False),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("description", sa.String(1024), nullable=False),
        sa.Column("chosen", JsonDocument(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("gone", sa.Boolean(), nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.Column("position_transaction", sa.BigInteger(), nullable=False),
        sa.Column("position_id", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.String(512), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("sender", sa.String(64), nullable=False),
        sa.Column("sender_until", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_index("ix_webhooks_group_id_id", "webhooks", ["group_id", "id"], unique=False)
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("webhook_id", sa.String(64), nullable=False),
        sa.Column("execution_id", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("first_attempt_at", UtcDateTime(), nullable=True),
        sa.Column("next_attempt_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name="fk_webhook_deliveries_webhook_id_webhooks", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["executions.id"],
            name="fk_webhook_deliveries_execution_id_executions",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
    )
    op.create_index(
        "uq_webhook_deliveries_webhook_id_execution_id_sequence",
        "webhook_deliveries",
        ["webhook_id", "execution_id", "sequence"],
        unique=True,
    )
    for columns in (("webhook_id", "id"), ("execution_id",), ("ended_at",)):
        op.create_index(f"ix_webhook_deliveries_{'_'.join(columns)}", "webhook_deliveries", list(columns), unique=False)
    _partial_index(["webhook_id", "execution_id", "sequence"], "state = 'PENDING'")
    _partial_index(["webhook_id", "next_attempt_at"], "next_attempt_at IS NOT NULL")


def downgrade() -> None:
    """Remove them."""
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")


def _partial_index(columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(
        f"ix_webhook_deliveries_{'_'.join(columns)}",
        "webhook_deliveries",
        columns,
        unique=False,
        sqlite_where=where,
        postgresql_where=where,
    )
