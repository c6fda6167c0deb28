"""Crews that other systems can call as agents, and the tasks these have sent."""

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, LargeBinary, String, Table, false

from services.common.db.types import JsonDocument, UtcDateTime
from services.orchestrator.tables.columns import GROUP, ID, metadata, partial_index

publications = Table(
    "publications",
    metadata,
    Column("crew_id", ID, ForeignKey("crews.id", ondelete="CASCADE"), primary_key=True),
    Column("group_id", GROUP, nullable=False),
    Column("tenant", ID, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("public_card", Boolean, nullable=False, server_default=false()),
    Column("created_at", UtcDateTime, nullable=False),
    Index("uq_publications_tenant", "tenant", unique=True),
    Index("uq_publications_group_id_tenant", "group_id", "tenant", unique=True),
    partial_index("publications", "is_default", "group_id", unique=True),
)

# A trigger sets `status_time` when the state of the execution changes, whichever release changes it.
a2a_tasks = Table(
    "a2a_tasks",
    metadata,
    Column("id", ID, primary_key=True),
    Column("group_id", GROUP, nullable=False),
    Column("tenant", ID, nullable=False),
    Column("crew_id", ID, nullable=False),
    Column("crew_revision", Integer, nullable=False),
    Column("context_id", String(256), nullable=False),
    Column("subject", String(512), nullable=False),
    # NULL while inputs are missing.
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE")),
    Column("status_time", UtcDateTime, nullable=False),
    # Of tasks without an execution: TaskState, and the inputs they have been given.
    Column("draft_state", String(32)),
    Column("draft_inputs", JsonDocument),
    Index("uq_a2a_tasks_execution_id", "execution_id", unique=True),
    Index("ix_a2a_tasks_group_id_status_time_id", "group_id", "status_time", "id"),
    Index("ix_a2a_tasks_group_id_tenant_status_time_id", "group_id", "tenant", "status_time", "id"),
    Index("ix_a2a_tasks_group_id_context_id_id", "group_id", "context_id", "id"),
    partial_index("a2a_tasks", "execution_id IS NULL", "draft_state", "status_time"),
)

a2a_messages = Table(
    "a2a_messages",
    metadata,
    Column("task_id", ID, ForeignKey("a2a_tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("payload", LargeBinary, nullable=False),  # the message of A2A, serialized
    Column("created_at", UtcDateTime, nullable=False),
)
