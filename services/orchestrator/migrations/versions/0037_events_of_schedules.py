"""Let events of groups and their deliveries be of schedules, which have no execution.

Revision ID: 0037
Revises: 0036
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let rows be without an execution: what runs on the release before does not see them."""
    _require_executions(required=False)
    for column in ("schedule_id", "crew_id"):
        op.add_column("group_events", sa.Column(column, sa.String(length=64)))
    op.add_column("group_events", sa.Column("labels", sa.JSON().with_variant(JSONB(), "postgresql")))


def downgrade() -> None:
    """Forget the events of schedules."""
    for table in ("webhook_deliveries", "group_events"):
        op.execute(f"DELETE FROM {table} WHERE execution_id IS NULL")  # noqa: S608 - names of tables
    for column in ("labels", "crew_id", "schedule_id"):
        op.drop_column("group_events", column)
    _require_executions(required=True)


def _require_executions(*, required: bool) -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    # SQLite changes a table by making it anew, and begins again with the ids of the rows that are there.
    newest = 0
    if is_sqlite:
        found = op.get_bind().execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'group_events'"))
        newest = found.scalar() or 0
    with op.batch_alter_table("group_events", table_kwargs={"sqlite_autoincrement": True}) as batch_op:
        batch_op.alter_column("execution_id", existing_type=sa.String(length=64), nullable=not required)
    with op.batch_alter_table("webhook_deliveries") as batch_op:
        batch_op.alter_column("execution_id", existing_type=sa.String(length=64), nullable=not required)
    if is_sqlite and newest:
        op.execute("DELETE FROM sqlite_sequence WHERE name = 'group_events'")
        op.execute(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('group_events', {int(newest)})")  # noqa: S608
