"""Usage by subject and label, and limits of models and subjects.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from services.common.db.types import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_MODEL = sa.String(length=128)
_SUBJECT = sa.String(length=512)
_SORTED_MODEL = _MODEL.with_variant(sa.String(length=128, collation="C"), "postgresql")
_SORTED_SUBJECT = _SUBJECT.with_variant(sa.String(length=512, collation="C"), "postgresql")
_NEW_LIMITS = ("daily_cost_limit", "tokens_per_minute", "tokens_per_day", "tokens_per_month", "alert_share")


def upgrade() -> None:
    """Add columns and tables, and sum up the present month by day."""
    op.add_column(
        "usage_records", sa.Column("cache_write_input_tokens", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.add_column("usage_records", sa.Column("subject", _SUBJECT, nullable=False, server_default=""))
    json = sa.JSON().with_variant(JSONB(), "postgresql")
    op.add_column("usage_records", sa.Column("labels", json, nullable=False, server_default=sa.text("'{}'")))
    op.create_table(
        "usage_days",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("model", _MODEL, nullable=False),
        sa.Column("subject", _SUBJECT, nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "day", "model", "subject", name=op.f("pk_usage_days")),
    )
    _sum_up_present_month()
    with op.batch_alter_table("budgets") as budgets:
        budgets.add_column(sa.Column("model", _SORTED_MODEL, nullable=False, server_default=""))
        budgets.add_column(sa.Column("subject", _SORTED_SUBJECT, nullable=False, server_default=""))
        budgets.add_column(sa.Column("ceiling", sa.Boolean(), nullable=False, server_default=sa.false()))
        for name in _NEW_LIMITS:
            kind = sa.BigInteger() if name.startswith("tokens") else sa.Float()
            budgets.add_column(sa.Column(name, kind, nullable=False, server_default="0"))
        budgets.drop_constraint("pk_budgets", type_="primary")
        budgets.create_primary_key("pk_budgets", ["group_id", "model", "subject", "ceiling"])
    op.create_table(
        "budget_alerts",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("model", _MODEL, nullable=False),
        sa.Column("subject", _SUBJECT, nullable=False),
        sa.Column("ceiling", sa.Boolean(), nullable=False),
        sa.Column("limit_name", sa.String(length=32), nullable=False),
        sa.Column("period", sa.String(length=10), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("allowed", sa.Float(), nullable=False),
        sa.Column("used", sa.Float(), nullable=False),
        sa.Column("alert_share", sa.Float(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint(
            "group_id", "model", "subject", "ceiling", "limit_name", "period", name=op.f("pk_budget_alerts")
        ),
    )
    op.create_index("ix_budget_alerts_group_id_id", "budget_alerts", ["group_id", "id"], unique=False)
    with op.batch_alter_table("call_counts") as counts:
        counts.add_column(sa.Column("model", _MODEL, nullable=False, server_default=""))
        counts.add_column(sa.Column("subject", _SUBJECT, nullable=False, server_default=""))
        counts.drop_constraint("pk_call_counts", type_="primary")
        counts.create_primary_key("pk_call_counts", ["group_id", "model", "subject"])


def _sum_up_present_month() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    day = "substr(called_at, 1, 10)" if sqlite else "to_char(called_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
    now = "strftime('%Y-%m-01', 'now')" if sqlite else "to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-01')"
    op.execute(
        "INSERT INTO usage_days (group_id, day, model, subject, tokens, cost) "  # noqa: S608 - constants
        f"SELECT group_id, {day}, model, '', sum(input_tokens + output_tokens), sum(cost) FROM usage_records "
        f"WHERE {day} >= {now} GROUP BY group_id, {day}, model"
    )


def downgrade() -> None:
    """Take the change back; limits that the earlier release does not know are lost."""
    counts = sa.table("call_counts", sa.column("model"), sa.column("subject"))
    op.execute(sa.delete(counts).where(sa.or_(counts.c.model != "", counts.c.subject != "")))
    with op.batch_alter_table("call_counts") as table:
        table.drop_constraint("pk_call_counts", type_="primary")
        table.create_primary_key("pk_call_counts", ["group_id"])
        table.drop_column("subject")
        table.drop_column("model")
    op.drop_index("ix_budget_alerts_group_id_id", table_name="budget_alerts")
    op.drop_table("budget_alerts")
    budgets = sa.table("budgets", sa.column("model"), sa.column("subject"), sa.column("ceiling", sa.Boolean))
    op.execute(sa.delete(budgets).where(sa.or_(budgets.c.model != "", budgets.c.subject != "", budgets.c.ceiling)))
    with op.batch_alter_table("budgets") as table:
        table.drop_constraint("pk_budgets", type_="primary")
        table.create_primary_key("pk_budgets", ["group_id"])
        for name in ("model", "subject", "ceiling", *_NEW_LIMITS):
            table.drop_column(name)
    op.drop_table("usage_days")
    for name in ("labels", "subject", "cache_write_input_tokens"):
        op.drop_column("usage_records", name)
