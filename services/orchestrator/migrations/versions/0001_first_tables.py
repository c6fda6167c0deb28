"""Crews, executions, their events and journals, worker leases.

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
        "crews",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_crews")),
    )
    op.create_index("ix_crews_group_id_id", "crews", ["group_id", "id"], unique=False)
    op.create_index(
        "uq_crews_group_id_name",
        "crews",
        ["group_id", "name"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "executions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("crew_id", sa.String(length=64), nullable=False),
        sa.Column("crew_revision", sa.Integer(), nullable=False),
        sa.Column("crew_name", sa.String(length=256), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("inputs", JsonDocument(), nullable=False),
        sa.Column("labels", JsonDocument(), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("identity", sa.String(length=32), nullable=False),
        sa.Column("on_credential_expiry", sa.String(length=32), nullable=False),
        sa.Column("grant_id", sa.String(length=64), nullable=False),
        sa.Column("grant_open", sa.Boolean(), nullable=False),
        sa.Column("resumed_from", sa.String(length=64), nullable=False),
        sa.Column("timeout_seconds", sa.Float(), nullable=True),
        sa.Column("deadline_at", UtcDateTime(), nullable=True),
        sa.Column("cancel_requested_at", UtcDateTime(), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("ready", sa.Boolean(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("llm_calls", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("result", JsonDocument(), nullable=True),
        sa.Column("error", JsonDocument(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_executions")),
    )
    op.create_index("ix_executions_grant_open_ended_at", "executions", ["grant_open", "ended_at"], unique=False)
    op.create_index("ix_executions_group_id_crew_id_id", "executions", ["group_id", "crew_id", "id"], unique=False)
    op.create_index("ix_executions_group_id_id", "executions", ["group_id", "id"], unique=False)
    op.create_index("ix_executions_ready", "executions", ["ready", "group_id", "priority", "created_at"], unique=False)
    op.create_index("ix_executions_state_deadline_at", "executions", ["state", "deadline_at"], unique=False)
    op.create_table(
        "requests",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("method", sa.String(length=128), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("resource_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "subject", "method", "request_id", name=op.f("pk_requests")),
    )
    op.create_table(
        "worker_leases",
        sa.Column("executor_id", sa.String(length=128), nullable=False),
        sa.Column("host_name", sa.String(length=256), nullable=False),
        sa.Column("process_id", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("executor_id", name=op.f("pk_worker_leases")),
    )
    op.create_index("ix_worker_leases_expires_at", "worker_leases", ["expires_at"], unique=False)
    op.create_table(
        "approvals",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("task_index", sa.Integer(), nullable=False),
        sa.Column("task_name", sa.String(length=128), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("output", JsonDocument(), nullable=False),
        sa.Column("feedback", sa.Text(), nullable=False),
        sa.Column("answered_by", sa.String(length=512), nullable=False),
        sa.Column("requested_at", UtcDateTime(), nullable=False),
        sa.Column("answered_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name=op.f("fk_approvals_execution_id_executions"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approvals")),
    )
    op.create_index("ix_approvals_execution_id_task_index", "approvals", ["execution_id", "task_index"], unique=False)
    op.create_table(
        "crew_revisions",
        sa.Column("crew_id", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("document", JsonDocument(), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["crew_id"], ["crews.id"], name=op.f("fk_crew_revisions_crew_id_crews")),
        sa.PrimaryKeyConstraint("crew_id", "revision", name=op.f("pk_crew_revisions")),
    )
    op.create_table(
        "execution_events",
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("task_index", sa.Integer(), nullable=True),
        sa.Column("task_name", sa.String(length=128), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("call_id", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["executions.id"],
            name=op.f("fk_execution_events_execution_id_executions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("execution_id", "sequence", name=op.f("pk_execution_events")),
    )
    op.create_table(
        "llm_journal",
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("task_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("occurrence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name=op.f("fk_llm_journal_execution_id_executions"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "execution_id", "task_index", "request_hash", "occurrence", name=op.f("pk_llm_journal")
        ),
    )
    op.create_table(
        "task_runs",
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("task_index", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("copied", sa.Boolean(), nullable=False),
        sa.Column("llm_calls", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("output", JsonDocument(), nullable=True),
        sa.Column("error", JsonDocument(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name=op.f("fk_task_runs_execution_id_executions"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("execution_id", "task_index", name=op.f("pk_task_runs")),
    )
    op.create_table(
        "tool_journal",
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("task_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("call_key", sa.String(length=128), nullable=False),
        sa.Column("tool_name", sa.String(length=128), nullable=False),
        sa.Column("idempotent", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("intended_at", UtcDateTime(), nullable=False),
        sa.Column("resulted_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["executions.id"],
            name=op.f("fk_tool_journal_execution_id_executions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("execution_id", "task_index", "call_key", name=op.f("pk_tool_journal")),
    )


def downgrade() -> None:
    """Drop everything."""
    op.drop_table("tool_journal")
    op.drop_table("task_runs")
    op.drop_table("llm_journal")
    op.drop_table("execution_events")
    op.drop_table("crew_revisions")
    op.drop_index("ix_approvals_execution_id_task_index", table_name="approvals")
    op.drop_table("approvals")
    op.drop_index("ix_worker_leases_expires_at", table_name="worker_leases")
    op.drop_table("worker_leases")
    op.drop_table("requests")
    op.drop_index("ix_executions_state_deadline_at", table_name="executions")
    op.drop_index("ix_executions_ready", table_name="executions")
    op.drop_index("ix_executions_group_id_id", table_name="executions")
    op.drop_index("ix_executions_group_id_crew_id_id", table_name="executions")
    op.drop_index("ix_executions_grant_open_ended_at", table_name="executions")
    op.drop_table("executions")
    op.drop_index(
        "uq_crews_group_id_name",
        table_name="crews",
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_index("ix_crews_group_id_id", table_name="crews")
    op.drop_table("crews")
