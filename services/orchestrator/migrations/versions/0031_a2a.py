"""Keep the crews that other systems can call as agents, and the tasks these send.

The time of a task's status is set by a trigger: it belongs to the transaction that changes the state of the execution,
which may be one of a worker host of the release before.

Revision ID: 0031
Revises: 0030
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument, UtcDateTime

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

_DEFAULT = sa.text("is_default")
_DRAFT = sa.text("execution_id IS NULL")


def upgrade() -> None:
    """Add the tables and the trigger."""
    op.create_table(
        "publications",
        sa.Column("crew_id", sa.String(64), nullable=False),
        sa.Column("group_id", sa.String(128), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["crew_id"], ["crews.id"], name="fk_publications_crew_id_crews", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("crew_id", name="pk_publications"),
    )
    op.create_index("uq_publications_group_id_tenant", "publications", ["group_id", "tenant"], unique=True)
    op.create_index(
        "uq_publications_group_id",
        "publications",
        ["group_id"],
        unique=True,
        sqlite_where=_DEFAULT,
        postgresql_where=_DEFAULT,
    )
    op.create_table(
        "a2a_tasks",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("group_id", sa.String(128), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("crew_id", sa.String(64), nullable=False),
        sa.Column("crew_revision", sa.Integer(), nullable=False),
        sa.Column("context_id", sa.String(256), nullable=False),
        sa.Column("subject", sa.String(512), nullable=False),
        sa.Column("execution_id", sa.String(64), nullable=True),
        sa.Column("status_time", UtcDateTime(), nullable=False),
        sa.Column("draft_state", sa.String(32), nullable=True),
        sa.Column("draft_inputs", JsonDocument(), nullable=True),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name="fk_a2a_tasks_execution_id_executions", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_a2a_tasks"),
    )
    op.create_index("uq_a2a_tasks_execution_id", "a2a_tasks", ["execution_id"], unique=True)
    for columns in (
        ("group_id", "status_time", "id"),
        ("group_id", "tenant", "status_time", "id"),
        ("group_id", "context_id", "id"),
    ):
        op.create_index(f"ix_a2a_tasks_{'_'.join(columns)}", "a2a_tasks", list(columns), unique=False)
    op.create_index(
        "ix_a2a_tasks_draft_state_status_time",
        "a2a_tasks",
        ["draft_state", "status_time"],
        unique=False,
        sqlite_where=_DRAFT,
        postgresql_where=_DRAFT,
    )
    op.create_table(
        "a2a_messages",
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"], ["a2a_tasks.id"], name="fk_a2a_messages_task_id_a2a_tasks", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("task_id", "number", name="pk_a2a_messages"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # The schema is named, as sessions behind a pooler have no search path.
        op.execute(
            """
            CREATE FUNCTION note_a2a_status_time() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                EXECUTE format('UPDATE %I.a2a_tasks SET status_time = clock_timestamp() WHERE execution_id = $1',
                               TG_TABLE_SCHEMA) USING NEW.id;
                RETURN NULL;
            END $$
            """
        )
        op.execute(
            "CREATE TRIGGER note_a2a_status_time AFTER UPDATE OF state ON executions FOR EACH ROW "
            "WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION note_a2a_status_time()"
        )
    else:
        op.execute(
            """
            CREATE TRIGGER note_a2a_status_time AFTER UPDATE OF state ON executions
            FOR EACH ROW WHEN OLD.state IS NOT NEW.state
            BEGIN
                UPDATE a2a_tasks SET status_time = strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'
                WHERE execution_id = NEW.id;
            END
            """
        )


def downgrade() -> None:
    """Remove them."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER note_a2a_status_time ON executions")
        op.execute("DROP FUNCTION note_a2a_status_time()")
    else:
        op.execute("DROP TRIGGER note_a2a_status_time")
    op.drop_table("a2a_messages")
    op.drop_table("a2a_tasks")
    op.drop_table("publications")
