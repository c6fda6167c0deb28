"""The orchestrator's tables. Rows are the truth: the API writes what is wanted, workers what has come of it."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

from services.common.db.idempotency import requests_table
from services.common.db.types import NAMING_CONVENTION, JsonDocument, UtcDateTime

metadata = MetaData(naming_convention=NAMING_CONVENTION)

_ID = String(64)
_GROUP = String(128)
# In the same order on both databases.
_NAME = String(128).with_variant(String(128, collation="C"), "postgresql")
_FILE_NAME = String(256).with_variant(String(256, collation="C"), "postgresql")
# Folding a letter's case makes up to three of it.
_FILE_NAME_KEY = String(1024).with_variant(String(1024, collation="C"), "postgresql")


def _partial_index(table: str, condition: str, *columns: str) -> Index:
    where = text(condition)
    return Index(f"ix_{table}_{'_'.join(columns)}", *columns, sqlite_where=where, postgresql_where=where)


crews = Table(
    "crews",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("group_id", _GROUP, nullable=False),
    Column("name", String(256), nullable=False),
    Column("revision", Integer, nullable=False),  # the newest
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime),
    Index("ix_crews_group_id_id", "group_id", "id"),
    # A name is free again once its crew is deleted.
    Index(
        "uq_crews_group_id_name",
        "group_id",
        "name",
        unique=True,
        sqlite_where=text("deleted_at IS NULL"),
        postgresql_where=text("deleted_at IS NULL"),
    ),
)

crew_revisions = Table(
    "crew_revisions",
    metadata,
    Column("crew_id", _ID, ForeignKey("crews.id"), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("document", JsonDocument, nullable=False),  # CrewSpec
    Column("subject", String(512), nullable=False),  # who made it
    Column("memory_id", String(128)),  # empty when memory is off; NULL in rows of releases that did not keep it
    Column("created_at", UtcDateTime, nullable=False),
    # Hashes of the tools of sources by their names; NULL as above.
    Column("tool_pins", JsonDocument),
)

# The sources whose tools the newest revision of a crew uses.
crew_tool_sources = Table(
    "crew_tool_sources",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("source_name", String(64), primary_key=True),
    Column("crew_id", _ID, ForeignKey("crews.id", ondelete="CASCADE"), primary_key=True),
    Index("ix_crew_tool_sources_crew_id", "crew_id"),
)

requests = requests_table(metadata)

executions = Table(
    "executions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("group_id", _GROUP, nullable=False),
    Column("subject", String(512), nullable=False),
    Column("crew_id", _ID, nullable=False),
    Column("crew_revision", Integer, nullable=False),
    Column("crew_name", String(256), nullable=False),
    Column("state", String(32), nullable=False),  # ExecutionState
    Column("inputs", JsonDocument, nullable=False),
    Column("labels", JsonDocument, nullable=False),
    Column("model", String(128), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("identity", String(32), nullable=False),  # ExecutionIdentity
    Column("on_credential_expiry", String(32), nullable=False),  # OnCredentialExpiry
    Column("grant_id", _ID, nullable=False),
    # Whether the grant may still have to be revoked after the end.
    Column("grant_open", Boolean, nullable=False),
    Column("resumed_from", _ID, nullable=False),
    Column("from_task", String(128), nullable=False, server_default=""),
    # Its default is for the previous release, which does not know the column.
    Column("schedule_id", _ID, nullable=False, server_default=""),
    Column("batch_id", _ID, nullable=False, server_default=""),
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
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Index("ix_executions_ready", "ready", "group_id", "priority", "created_at"),
    Index("ix_executions_group_id_id", "group_id", "id"),
    Index("ix_executions_group_id_crew_id_id", "group_id", "crew_id", "id"),
    Index("ix_executions_group_id_schedule_id_id", "group_id", "schedule_id", "id"),
    Index("ix_executions_state_deadline_at", "state", "deadline_at"),
    Index("ix_executions_grant_open_ended_at", "grant_open", "ended_at"),
    Index(
        "ix_executions_wake_at",
        "wake_at",
        sqlite_where=text("wake_at IS NOT NULL"),
        postgresql_where=text("wake_at IS NOT NULL"),
    ),
    Index("ix_executions_group_id_subject_id", "group_id", "subject", "id"),
    _partial_index("executions", "error_reason <> ''", "group_id", "error_reason", "id"),
    _partial_index("executions", "resumed_from <> ''", "group_id", "resumed_from", "id"),
    _partial_index("executions", "ended_at IS NOT NULL", "group_id", "ended_at"),
    _partial_index("executions", "batch_id <> ''", "group_id", "batch_id", "id"),
    _partial_index("executions", "concurrency_key <> '' AND ended_at IS NULL", "group_id", "concurrency_key", "id"),
    _partial_index("executions", "batch_id <> '' AND ended_at IS NULL", "batch_id"),
)

# Labels by their hashes, for lists: names and values are too long for a key.
execution_labels = Table(
    "execution_labels",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("label_hash", String(64), primary_key=True),
    Column("execution_id", _ID, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    Index("ix_execution_labels_execution_id", "execution_id"),
)

# For how long groups keep ended executions; a group without a row keeps them as the operator says.
execution_retention = Table(
    "execution_retention",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("seconds", Float, nullable=False),  # 0: for ever
)

task_runs = Table(
    "task_runs",
    metadata,
    Column("execution_id", _ID, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
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

execution_events = Table(
    "execution_events",
    metadata,
    Column("execution_id", _ID, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time", UtcDateTime, nullable=False),
    Column("kind", String(32), nullable=False),  # the field set in ExecutionEvent.event
    Column("task_index", Integer),
    Column("task_name", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),
    # For model calls; chunks are pruned by it (within the call's range of sequences, which the primary key finds).
    Column("call_id", _ID, nullable=False),
    # A serialized ExecutionEvent that holds nothing but its `event`.
    Column("payload", LargeBinary, nullable=False),
)

# Events that show how far an execution has come, without results, in the order of repositories/group_events.py.
group_events = Table(
    "group_events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    # The transaction that stored it; 0 on SQLite.
    Column("transaction_id", BigInteger, nullable=False),
    Column("group_id", _GROUP, nullable=False),
    Column("execution_id", _ID, ForeignKey("executions.id", ondelete="CASCADE"), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("task_index", Integer),
    Column("task_name", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("stored_at", UtcDateTime, nullable=False),
    Index("ix_group_events_execution_id", "execution_id"),
    Index("ix_group_events_group_id_transaction_id_id", "group_id", "transaction_id", "id"),
    Index("ix_group_events_stored_at", "stored_at"),
    # Ids of removed rows are never given out again.
    sqlite_autoincrement=True,
)

# What executions ask people.
questions = Table(
    "questions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("execution_id", _ID, ForeignKey("executions.id", ondelete="CASCADE"), nullable=False),
    Column("group_id", _GROUP, nullable=False),
    Column("crew_id", _ID, nullable=False),
    Column("crew_name", String(256), nullable=False),
    Column("task_index", Integer, nullable=False),
    Column("task_name", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", String(32), nullable=False),  # QuestionKind
    Column("state", String(32), nullable=False),  # QuestionState
    Column("text", Text, nullable=False),
    Column("content", JsonDocument, nullable=False),  # what it is about, by its kind: TaskOutput or QuestionedCall
    Column("schema", JsonDocument),
    Column("role", Integer, nullable=False),  # Role
    Column("deadline_at", UtcDateTime),
    Column("on_deadline", String(32), nullable=False),  # OnDeadline
    Column("answer", JsonDocument),  # Answer
    Column("answered_by", String(512), nullable=False),
    Column("answered_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_questions_execution_id_task_index", "execution_id", "task_index"),
    Index("ix_questions_group_id_id", "group_id", "id"),
    Index("ix_questions_group_id_state_id", "group_id", "state", "id"),
    Index("ix_questions_group_id_crew_id_id", "group_id", "crew_id", "id"),
    Index("ix_questions_state_deadline_at", "state", "deadline_at"),
)

# The last sequence of each group's changes. Its row stays locked until the transaction that raises it ends, so that
# changes become visible in their order.
question_inboxes = Table(
    "question_inboxes",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("last_sequence", BigInteger, nullable=False),
)

question_changes = Table(
    "question_changes",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("question_id", _ID, ForeignKey("questions.id", ondelete="CASCADE"), nullable=False),
    Column("state", String(32), nullable=False),  # QuestionState, as the change left it
    Index("ix_question_changes_question_id", "question_id"),
)

# Only the release before writes it, while both run; see `repositories/earlier_approvals.py`.
approvals = Table(
    "approvals",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("execution_id", _ID, ForeignKey("executions.id", ondelete="CASCADE"), nullable=False),
    Column("group_id", _GROUP, nullable=False),
    Column("task_index", Integer, nullable=False),
    Column("task_name", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String(32), nullable=False),  # PENDING, APPROVED, REFUSED or VOID
    Column("output", JsonDocument, nullable=False),  # TaskOutput
    Column("feedback", Text, nullable=False),
    Column("answered_by", String(512), nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("answered_at", UtcDateTime),
    Index("ix_approvals_execution_id_task_index", "execution_id", "task_index"),
)

# Answers of models, so that a repeated attempt gets the same ones without calling again.
llm_journal = Table(
    "llm_journal",
    metadata,
    Column("execution_id", _ID, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    Column("task_index", Integer, primary_key=True, autoincrement=False),
    Column("request_hash", String(64), primary_key=True),
    # The nth time the task asked exactly this, from 0.
    Column("occurrence", Integer, primary_key=True, autoincrement=False),
    Column("response", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

# An intent without a result on a tool that is not idempotent is never run again.
tool_journal = Table(
    "tool_journal",
    metadata,
    Column("execution_id", _ID, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    Column("task_index", Integer, primary_key=True, autoincrement=False),
    Column("call_key", String(128), primary_key=True),
    Column("tool_name", String(192), nullable=False),
    Column("idempotent", Boolean, nullable=False),
    Column("state", String(32), nullable=False),  # ToolCallState
    # The claim that wrote the intent.
    Column("epoch", Integer, nullable=False),
    # The rest up to `reason` is for calls that hosts make; the defaults are for those of crew processes.
    # By what the gateway and the source know the call; it moves with the row to executions that continue this one.
    Column("call_id", _ID, nullable=False, server_default=""),
    # How often a person has said that the call had no effect.
    Column("round", Integer, nullable=False, server_default="0"),
    Column("tool_hash", String(64), nullable=False, server_default=""),
    Column("arguments", Text, nullable=False, server_default=""),  # JSON
    # An ErrorReason; empty for a failure that the tool tells of itself.
    Column("reason", String(64), nullable=False, server_default=""),
    Column("result", LargeBinary),
    Column("error", Text, nullable=False),
    Column("intended_at", UtcDateTime, nullable=False),
    Column("resulted_at", UtcDateTime),
    _partial_index("tool_journal", "call_id <> ''", "call_id"),
)

# Calls of tools that have ended. They outlive their executions, as what models have used does.
tool_usage = Table(
    "tool_usage",
    metadata,
    Column("id", _ID, primary_key=True),  # the call's id
    Column("group_id", _GROUP, nullable=False),
    Column("subject", String(512), nullable=False),
    Column("execution_id", _ID, nullable=False),  # empty for a call of TestTool, like the crew and the task
    Column("crew", String(256), nullable=False),  # names: usage outlives what it is of
    Column("task", String(128), nullable=False),
    Column("source", String(64), nullable=False),  # empty: built in
    Column("tool", String(192), nullable=False),
    Column("labels", JsonDocument, nullable=False),  # the execution's
    Column("called_at", UtcDateTime, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("argument_bytes", BigInteger, nullable=False),
    Column("result_bytes", BigInteger, nullable=False),
    Column("outcome", String(16), nullable=False),  # ToolCallOutcome
    Column("cost", Float, nullable=False),
    Index("ix_tool_usage_group_id_called_at", "group_id", "called_at"),
    Index("ix_tool_usage_group_id_execution_id", "group_id", "execution_id"),
)

# Files of executions, as the last revision that each task made of them. Contents are in `artifact_chunks`.
artifacts = Table(
    "artifacts",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("execution_id", _ID, ForeignKey("executions.id", ondelete="CASCADE"), nullable=False),
    Column("group_id", _GROUP, nullable=False),
    Column("name", _FILE_NAME, nullable=False),
    # What names have in common that a file system may take for one.
    Column("name_key", _FILE_NAME_KEY, nullable=False),
    Column("task_index", Integer, nullable=False),
    Column("task_name", String(128), nullable=False),
    Column("call_id", String(128), nullable=False),  # empty for a task's result
    Column("media_type", String(256), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    # Whether it is the newest revision of its name.
    Column("is_current", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("uq_artifacts_execution_id_name_key_revision", "execution_id", "name_key", "revision", unique=True),
    Index("ix_artifacts_execution_id_name", "execution_id", "name"),
    # A group's total is read from it alone.
    Index("ix_artifacts_group_id_size", "group_id", "size"),
)

artifact_chunks = Table(
    "artifact_chunks",
    metadata,
    Column("artifact_id", _ID, ForeignKey("artifacts.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("content", LargeBinary, nullable=False),  # CHUNK_BYTES, less in the last one
)

# Files that tools have made, until the host that made the call has taken them.
artifact_uploads = Table(
    "artifact_uploads",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("execution_id", _ID, ForeignKey("executions.id", ondelete="CASCADE"), nullable=False),
    Column("group_id", _GROUP, nullable=False),
    Column("name", String(256), nullable=False),
    Column("media_type", String(256), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_artifact_uploads_execution_id", "execution_id"),
    Index("ix_artifact_uploads_created_at", "created_at"),
)

artifact_upload_chunks = Table(
    "artifact_upload_chunks",
    metadata,
    Column("upload_id", _ID, ForeignKey("artifact_uploads.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("content", LargeBinary, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("group_id", _GROUP, nullable=False),
    Column("subject", String(512), nullable=False),
    Column("crew_name", String(256), nullable=False),
    Column("start", JsonDocument, nullable=False),  # Start
    Column("max_parallel", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    # Executions made so far, in the order of the inputs.
    Column("started", Integer, nullable=False),
    Column("grant_id", _ID, nullable=False),
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
    Column("batch_id", _ID, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("inputs", JsonDocument, nullable=False),  # a list of objects
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("group_id", _GROUP, nullable=False),
    Column("subject", String(512), nullable=False),
    Column("name", _NAME, nullable=False),
    Column("cron", String(256), nullable=False),
    Column("time_zone", String(64), nullable=False),
    Column("start", JsonDocument, nullable=False),  # Start
    Column("paused", Boolean, nullable=False),
    Column("delegate_id", _ID, nullable=False),
    Column("grant_id", _ID, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("next_fire_at", UtcDateTime),
    Column("last_fire_at", UtcDateTime),
    Column("last_execution_id", _ID, nullable=False),
    Column("last_error", JsonDocument),  # ExecutionError
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime),
    Index("ix_schedules_next_fire_at", "next_fire_at"),
    # A name is free again once its schedule is deleted.
    Index(
        "uq_schedules_group_id_name",
        "group_id",
        "name",
        unique=True,
        sqlite_where=text("deleted_at IS NULL"),
        postgresql_where=text("deleted_at IS NULL"),
    ),
)

# One row for each running worker host. Times are seconds since 1970 by the database's clock, the only one hosts share.
# On SQLite the rows are in a file of their own (`LeaseStore`), where this table stays empty.
worker_leases = Table(
    "worker_leases",
    metadata,
    Column("executor_id", String(128), primary_key=True),
    Column("host_name", String(256), nullable=False),
    Column("process_id", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    # The lock that the host's process holds as long as it lives; NULL when the lease alone says so.
    Column("lock_key", BigInteger),
    Index("ix_worker_leases_expires_at", "expires_at"),
)

# What each worker host can run, by what it says of itself.
worker_slots = Table(
    "worker_slots",
    metadata,
    Column("executor_id", String(128), primary_key=True),
    Column("slots", Integer, nullable=False),
    Column("reserved_slots", Integer, nullable=False),
    Column("group_limit", Integer),
)

tool_sources = Table(
    "tool_sources",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("group_id", _GROUP, nullable=False),
    Column("name", _NAME, nullable=False),
    Column("subject", String(512), nullable=False),  # who changed it last; empty for an operator's
    Column("from_operator", Boolean, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("spec", JsonDocument, nullable=False),  # ToolSourceSpec
    Column("list_revision", Integer, nullable=False),  # the newest of tool_source_revisions; 0: none
    Column("tool_count", Integer, nullable=False),
    Column("accepted", JsonDocument, nullable=False),  # AcceptedTool by name
    Column("changes", JsonDocument, nullable=False),  # a list of ToolChange
    Column("list_warnings", JsonDocument, nullable=False),  # a list of texts
    Column("list_error", Text, nullable=False),
    Column("listed_at", UtcDateTime),
    Column("checked_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime),
    Index("ix_tool_sources_group_id_id", "group_id", "id"),
    # A name is free again once its source is deleted.
    Index(
        "uq_tool_sources_group_id_name",
        "group_id",
        "name",
        unique=True,
        sqlite_where=text("deleted_at IS NULL"),
        postgresql_where=text("deleted_at IS NULL"),
    ),
    _partial_index("tool_sources", "from_operator AND deleted_at IS NULL", "name"),
)

# Lists of the tools of sources; a list that is like the one before has no row of its own.
tool_source_revisions = Table(
    "tool_source_revisions",
    metadata,
    Column("source_id", _ID, ForeignKey("tool_sources.id", ondelete="CASCADE"), primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("tools", JsonDocument, nullable=False),  # a list of ListedTool
    Column("created_at", UtcDateTime, nullable=False),
)

gateway_calls = Table(
    "gateway_calls",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("call_id", _ID, primary_key=True),
    Column("execution_id", _ID, nullable=False),  # empty for a call of TestTool
    Column("source", String(256), nullable=False),  # or the name of a built-in tool
    # A row is stored before the first byte leaves: a call without one has had no effect.
    Column("sent_at", UtcDateTime, nullable=False),
    Column("replica", _ID, nullable=False),  # the process that makes the call
    Column("leased_until", UtcDateTime, nullable=False),  # renewed while it does
    Column("handle", LargeBinary),  # sealed; what finds the call again at its source
    Column("outcome", LargeBinary),  # sealed; ToolOutcome, until nobody may want it any more
    Column("ended_at", UtcDateTime),
    Column("question", LargeBinary),  # sealed; the open SourceQuestion
    Column("answer", LargeBinary),  # sealed; of a person, for the replica that makes the call
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Index("ix_gateway_calls_execution_id", "execution_id"),
    Index("ix_gateway_calls_group_id_source_sent_at", "group_id", "source", "sent_at"),
    _partial_index("gateway_calls", "ended_at IS NULL", "replica"),
    _partial_index("gateway_calls", "outcome IS NOT NULL", "ended_at"),
)
