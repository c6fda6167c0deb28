"""Executions and their tasks."""

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, false

from services.common.db.types import JsonDocument, UtcDateTime
from services.orchestrator.tables.columns import GROUP, ID, metadata, partial_index

executions = Table(
    "executions",
    metadata,
    Column("id", ID, primary_key=True),
    Column("group_id", GROUP, nullable=False),
    Column("subject", String(512), nullable=False),
    Column("crew_id", ID, nullable=False),
    Column("crew_revision", Integer, nullable=False),
    Column("crew_name", String(256), nullable=False),
    Column("state", String(32), nullable=False),  # ExecutionState
    Column("inputs", JsonDocument, nullable=False),
    Column("labels", JsonDocument, nullable=False),
    Column("model", String(128), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("identity", String(32), nullable=False),  # ExecutionIdentity
    Column("on_credential_expiry", String(32), nullable=False),  # OnCredentialExpiry
    Column("grant_id", ID, nullable=False),
    # Whether the grant may still have to be revoked after the end.
    Column("grant_open", Boolean, nullable=False),
    Column("resumed_from", ID, nullable=False),
    Column("from_task", String(128), nullable=False, server_default=""),
    # Its default is for the previous release, which does not know the column.
    Column("schedule_id", ID, nullable=False, server_default=""),
    Column("batch_id", ID, nullable=False, server_default=""),
    Column("batch_index", Integer),
    Column("concurrency_key", String(256), nullable=False, server_default=""),
    Column("overlap_policy", String(16), nullable=False, server_default="ALLOW"),  # OverlapPolicy
    # Whether it is not ready because others with its key have not ended.
    Column("waits_turn", Boolean, nullable=False, server_default=false()),
    Column("limits", JsonDocument),  # ExecutionLimits; NULL in rows of releases that had none
    Column("used_before", JsonDocument),  # Usage of the executions it continues; NULL as above
    Column("timeout_seconds", Float),
    Column("deadline_at", UtcDateTime),
    Column("cancel_requested_at", UtcDateTime),
    # Claims so far. Every write of a worker is guarded by the epoch it claimed.
    Column("epoch", Integer, nullable=False),
    # Hosts in a row that died with the execution and no task of it finished; and how many tasks had finished then.
    Column("lost_hosts", Integer, nullable=False, server_default="0"),
    Column("lost_hosts_after", Integer, nullable=False, server_default="0"),
    # The segment the execution is at: 1, and one more each time it was parked and woken.
    Column("generation", Integer, nullable=False),
    # Whether it waits for a worker host to take it.
    Column("ready", Boolean, nullable=False),
    # The worker host that claimed it last; empty before. The default is for rows of earlier releases.
    Column("executor_id", String(128), nullable=False, server_default=""),
    # Rises in the transaction that inserts the events.
    Column("last_sequence", BigInteger, nullable=False),
    Column("llm_calls", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost", Float, nullable=False),
    Column("tool_calls", BigInteger, nullable=False, server_default="0"),
    Column("result", JsonDocument),  # TaskOutput
    Column("error", JsonDocument),  # ExecutionError
    Column("model_waits", JsonDocument),  # a list of ModelWait; NULL when it waits for no model
    # When one that waits for a model is to be woken.
    Column("wake_at", UtcDateTime),
    Column("error_reason", String(64), nullable=False, server_default=""),
    Column("created_at", UtcDateTime, nullable=False),
    # The trace it was started in; the default is for rows of earlier releases.
    Column("traceparent", String(64), nullable=False, server_default=""),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Index("ix_executions_ready", "ready", "group_id", "priority", "created_at"),
    Index("ix_executions_group_id_id", "group_id", "id"),
    Index("ix_executions_group_id_crew_id_id", "group_id", "crew_id", "id"),
    Index("ix_executions_group_id_schedule_id_id", "group_id", "schedule_id", "id"),
    Index("ix_executions_state_deadline_at", "state", "deadline_at"),
    Index("ix_executions_grant_open_ended_at", "grant_open", "ended_at"),
    partial_index("executions", "wake_at IS NOT NULL", "wake_at"),
    Index("ix_executions_group_id_subject_id", "group_id", "subject", "id"),
    partial_index("executions", "error_reason <> ''", "group_id", "error_reason", "id"),
    partial_index("executions", "resumed_from <> ''", "group_id", "resumed_from", "id"),
    partial_index("executions", "ended_at IS NOT NULL", "group_id", "ended_at"),
    partial_index("executions", "batch_id <> ''", "group_id", "batch_id", "id"),
    partial_index("executions", "concurrency_key <> '' AND ended_at IS NULL", "group_id", "concurrency_key", "id"),
    partial_index("executions", "batch_id <> '' AND ended_at IS NULL", "batch_id"),
    partial_index("executions", "ended_at IS NULL", "group_id"),
)

# Labels by their hashes, for lists: names and values are too long for a key.
execution_labels = Table(
    "execution_labels",
    metadata,
    Column("group_id", GROUP, primary_key=True),
    Column("label_hash", String(64), primary_key=True),
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    Index("ix_execution_labels_execution_id", "execution_id"),
)

# How many executions of a group may run at once, as auth said last; a group without a row may run any number.
running_limits = Table(
    "running_limits",
    metadata,
    Column("group_id", GROUP, primary_key=True),
    Column("max_running", BigInteger, nullable=False),
)

# For how long groups keep ended executions; a group without a row keeps them as the operator says.
execution_retention = Table(
    "execution_retention",
    metadata,
    Column("group_id", GROUP, primary_key=True),
    Column("seconds", Float, nullable=False),  # 0: for ever
)

task_runs = Table(
    "task_runs",
    metadata,
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    Column("task_index", Integer, primary_key=True),
    Column("name", String(128), nullable=False),
    Column("state", String(32), nullable=False),  # TaskState
    Column("attempt", Integer, nullable=False),
    Column("copied", Boolean, nullable=False),
    Column("llm_calls", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost", Float, nullable=False),
    Column("tool_calls", BigInteger, nullable=False, server_default="0"),
    Column("output", JsonDocument),  # TaskOutput
    Column("error", JsonDocument),  # ExecutionError
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
)
