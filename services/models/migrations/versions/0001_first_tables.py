"""Models, who switched them off, what calls of them used, budgets.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "budgets",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("monthly_cost_limit", sa.Float(), nullable=False),
        sa.Column("calls_per_minute", sa.Integer(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_budgets")),
    )
    op.create_table(
        "call_counts",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_call_counts")),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column(
            "name",
            sa.String(length=128).with_variant(sa.String(length=128, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column("upstream_model", sa.String(length=256), nullable=False),
        sa.Column("base_url", sa.String(length=512), nullable=False),
        sa.Column("capabilities", JsonDocument(), nullable=False),
        sa.Column("context_window", sa.Integer(), nullable=False),
        sa.Column("max_output_tokens", sa.Integer(), nullable=False),
        sa.Column("embedding_dimension", sa.Integer(), nullable=False),
        sa.Column("temperature", sa.Float(), nullable=True),
        sa.Column("input_cost_per_million_tokens", sa.Float(), nullable=False),
        sa.Column("output_cost_per_million_tokens", sa.Float(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
    )
    op.create_index("uq_models_group_id_name", "models", ["group_id", "name"], unique=True)

    op.create_table(
        "monthly_costs",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "month", name=op.f("pk_monthly_costs")),
    )
    op.create_table(
        "requests",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("method", sa.String(length=128), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("model_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "subject", "method", "request_id", name=op.f("pk_requests")),
    )
    op.create_table(
        "usage_records",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("called_at", UtcDateTime(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_records")),
    )
    op.create_index("ix_usage_records_group_id_called_at", "usage_records", ["group_id", "called_at"], unique=False)
    op.create_index(
        "ix_usage_records_group_id_execution_id", "usage_records", ["group_id", "execution_id"], unique=False
    )

    op.create_table(
        "disabled_models",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("model_id", sa.String(length=64), nullable=False),
        sa.Column("disabled_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_disabled_models_model_id_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("group_id", "model_id", name=op.f("pk_disabled_models")),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("disabled_models")
    op.drop_index("ix_usage_records_group_id_execution_id", table_name="usage_records")
    op.drop_index("ix_usage_records_group_id_called_at", table_name="usage_records")

    op.drop_table("usage_records")
    op.drop_table("requests")
    op.drop_table("monthly_costs")
    op.drop_index("uq_models_group_id_name", table_name="models")

    op.drop_table("models")
    op.drop_table("call_counts")
    op.drop_table("budgets")
