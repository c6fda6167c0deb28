"""What starts executions: batches and schedules."""

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, String, Table

from services.common.db.types import JsonDocument, UtcDateTime
from services.orchestrator.tables.columns import GROUP, ID, NAME, metadata, partial_index

batches = Table(
    "batches",
    metadata,
    Column("id", ID, primary_key=True),
    Column("group_id", GROUP, nullable=False),
    Column("subject", String(512), nullable=False),
    Column("crew_name", String(256), nullable=False),
    Column("start", JsonDocument, nullable=False),  # Start
    Column("max_parallel", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    # Executions made so far, in the order of the inputs.
    Column("started", Integer, nullable=False),
    Column("grant_id", ID, nullable=False),
    # Whether the batch has not ended, or its grant may still have to be revoked.
    Column("grant_open", Boolean, nullable=False),
    Column("cancel_requested_at", UtcDateTime),
    Column("error", JsonDocument),  # ExecutionError
    Column("created_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Index("ix_batches_group_id_id", "group_id", "id"),
    Index("ix_batches_group_id_ended_at", "group_id", "ended_at"),
    Index("ix_batches_grant_open_id", "grant_open", "id"),
)

# Inputs of which no execution has been made, some in each row: thousands of rows would take long to write.
batch_inputs = Table(
    "batch_inputs",
    metadata,
    Column("batch_id", ID, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("inputs", JsonDocument, nullable=False),  # a list of objects
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", ID, primary_key=True),
    Column("group_id", GROUP, nullable=False),
    Column("subject", String(512), nullable=False),
    Column("name", NAME, nullable=False),
    Column("cron", String(256), nullable=False),
    Column("time_zone", String(64), nullable=False),
    Column("start", JsonDocument, nullable=False),  # Start
    Column("paused", Boolean, nullable=False),
    Column("delegate_id", ID, nullable=False),
    Column("grant_id", ID, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("next_fire_at", UtcDateTime),
    Column("last_fire_at", UtcDateTime),
    Column("last_execution_id", ID, nullable=False),
    Column("last_error", JsonDocument),  # ExecutionError
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime),
    Index("ix_schedules_next_fire_at", "next_fire_at"),
    # A name is free again once its schedule is deleted.
    partial_index("schedules", "deleted_at IS NULL", "group_id", "name", unique=True),
)
