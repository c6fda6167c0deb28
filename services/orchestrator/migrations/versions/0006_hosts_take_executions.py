"""Let rows say which worker host has an execution, and what each host can run.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add who has what; what the queue of the release before holds is taken anew, with its finished tasks."""
    op.add_column("executions", sa.Column("executor_id", sa.String(length=128), nullable=False, server_default=""))
    op.create_table(
        "worker_slots",
        sa.Column("executor_id", sa.String(length=128), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("reserved_slots", sa.Integer(), nullable=False),
        sa.Column("group_limit", sa.Integer()),
        sa.PrimaryKeyConstraint("executor_id", name=op.f("pk_worker_slots")),
    )
    executions = sa.table("executions", sa.column("state", sa.String()), sa.column("ready", sa.Boolean()))
    op.execute(executions.update().where(executions.c.state.in_(["QUEUED", "RUNNING"])).values(ready=True))


def downgrade() -> None:
    """Forget who has what; the earlier release puts executions that are ready into its queue."""
    op.drop_table("worker_slots")
    op.drop_column("executions", "executor_id")
