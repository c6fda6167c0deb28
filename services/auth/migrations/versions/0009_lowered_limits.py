"""Let groups' admins lower the limits of their groups.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COUNTS = (
    "calls_per_minute",
    "calls_burst",
    "max_open_streams",
    "max_open_streams_per_subject",
    "max_open_executions",
    "max_running_executions",
    "max_crews",
    "max_schedules",
    "max_members",
    "max_secrets",
    "max_models",
    "model_calls_per_minute",
    "max_records",
    "max_stored_bytes",
)


def upgrade() -> None:
    """Create the table: no group has lowered any."""
    op.create_table(
        "lowered_group_limits",
        sa.Column("group_id", sa.String(128), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in _COUNTS),
        sa.Column("monthly_cost_ceiling", sa.Float(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_lowered_group_limits")),
    )


def downgrade() -> None:
    """Forget what was lowered."""
    op.drop_table("lowered_group_limits")
