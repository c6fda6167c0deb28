"""Keep webhooks of single executions, push notifications of tasks, and the former keys of webhooks.

Revision ID: 0034
Revises: 0033
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

from services.common.db.types import UtcDateTime

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

_TARGETS = {"execution_id": "executions", "task_id": "a2a_tasks"}


def upgrade() -> None:
    """Add columns and indexes."""
    with _changing_webhooks() as batch_op:
        for column in _added():
            batch_op.add_column(column)
        for name, target in _TARGETS.items():
            batch_op.create_foreign_key(f"fk_webhooks_{name}_{target}", target, [name], ["id"], ondelete="CASCADE")
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
    with _changing_webhooks() as batch_op:
        for name, target in _TARGETS.items():
            batch_op.drop_constraint(f"fk_webhooks_{name}_{target}", type_="foreignkey")
        for column in reversed(_added()):
            batch_op.drop_column(column.name)


def _added() -> list[sa.Column[Any]]:
    return [
        sa.Column("execution_id", sa.String(64), nullable=True),
        sa.Column("task_id", sa.String(64), nullable=True),
        sa.Column("config_id", sa.String(64), nullable=True),
        sa.Column("form", sa.String(16), nullable=False, server_default="NOTIFICATION"),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("finished", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("former_key", sa.LargeBinary(), nullable=True),
        sa.Column("former_key_until", UtcDateTime(), nullable=True),
    ]


@contextmanager
def _changing_webhooks() -> Iterator[BatchOperations]:
    # SQLite changes a table by making it anew, and the deliveries of the former one go with it.
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    if is_sqlite:
        op.execute("CREATE TABLE kept_deliveries AS SELECT * FROM webhook_deliveries")
    with op.batch_alter_table("webhooks") as batch_op:
        yield batch_op
    if is_sqlite:
        op.execute("INSERT INTO webhook_deliveries SELECT * FROM kept_deliveries")
        op.execute("DROP TABLE kept_deliveries")
