"""Let keys keep executions from overlapping.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_UNENDED = "concurrency_key <> '' AND ended_at IS NULL"


def upgrade() -> None:
    """Add keys, and which executions wait for their turn."""
    for column in (
        sa.Column("concurrency_key", sa.String(length=256), nullable=False, server_default=""),
        sa.Column("overlap_policy", sa.String(length=16), nullable=False, server_default="ALLOW"),
        sa.Column("waits_turn", sa.Boolean(), nullable=False, server_default=sa.false()),
    ):
        op.add_column("executions", column)
    op.create_index(
        "ix_executions_group_id_concurrency_key_id",
        "executions",
        ["group_id", "concurrency_key", "id"],
        unique=False,
        sqlite_where=sa.text(_UNENDED),
        postgresql_where=sa.text(_UNENDED),
    )


def downgrade() -> None:
    """Forget keys; what waits for its turn may run."""
    executions = sa.table("executions", sa.column("ready", sa.Boolean()), sa.column("waits_turn", sa.Boolean()))
    op.execute(executions.update().where(executions.c.waits_turn).values(ready=True))
    op.drop_index("ix_executions_group_id_concurrency_key_id", table_name="executions")
    for name in ("waits_turn", "overlap_policy", "concurrency_key"):
        op.drop_column("executions", name)
