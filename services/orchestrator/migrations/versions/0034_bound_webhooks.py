"""Keep webhooks of single executions, push notifications of tasks, and the former keys of webhooks.

Revision ID: 0034
Revises: 0033
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def _added() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("config_id", sa.String(64), nullable=True),
        sa.Column("form", sa.String(16), nullable=False, server_default="NOTIFICATION"),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("finished", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("former_key", sa.LargeBinary(), nullable=True),
        sa.Column("former_key_until", UtcDateTime(), nullable=True),
    )


def upgrade() -> None:
    """Add columns and indexes."""
    for column, target in (("execution_id", "executions"), ("task_id", "a2a_tasks")):
        # SQLite takes a reference with its column alone.
        op.execute(
            f"ALTER TABLE webhooks ADD COLUMN {column} VARCHAR(64) "
            f"CONSTRAINT fk_webhooks_{column}_{target} REFERENCES {target} (id) ON DELETE CASCADE"
        )
    for added in _added():
        op.add_column("webhooks", added)
    op.create_index("ix_webhooks_execution_id", "webhooks", ["execution_id"], unique=False)
    op.create_index("uq_webhooks_task_id_config_id", "webhooks", ["task_id", "config_id"], unique=True)
    where = sa.text("NOT paused AND NOT finished")
    op.create_index(
        "ix_webhooks_group_id", "webhooks", ["group_id"], unique=False, sqlite_where=where, postgresql_where=where
    )


def downgrade() -> None:
    """Remove them, with what only this release knows."""
    op.execute("DELETE FROM webhooks WHERE sequence IS NOT NULL")
    for name in ("ix_webhooks_group_id", "uq_webhooks_task_id_config_id", "ix_webhooks_execution_id"):
        op.drop_index(name, table_name="webhooks")
    for column in (*(added.name for added in reversed(_added())), "task_id", "execution_id"):
        op.drop_column("webhooks", column)
