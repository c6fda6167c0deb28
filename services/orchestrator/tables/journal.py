"""What attempts at tasks have been given, for the attempts after them."""

from sqlalchemy import Boolean, Column, ForeignKey, Integer, LargeBinary, String, Table, Text

from services.common.db.types import UtcDateTime
from services.orchestrator.tables.columns import ID, metadata, partial_index

# Answers of models, so that a repeated attempt gets the same ones without calling again.
llm_journal = Table(
    "llm_journal",
    metadata,
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
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
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    Column("task_index", Integer, primary_key=True, autoincrement=False),
    Column("call_key", String(128), primary_key=True),
    Column("tool_name", String(192), nullable=False),
    Column("idempotent", Boolean, nullable=False),
    Column("state", String(32), nullable=False),  # ToolCallState
    # The claim that wrote the intent.
    Column("epoch", Integer, nullable=False),
    # The rest up to `reason` is for calls that hosts make; the defaults are for those of crew processes.
    # By what the gateway and the source know the call; it moves with the row to executions that continue this one.
    Column("call_id", ID, nullable=False, server_default=""),
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
    partial_index("tool_journal", "call_id <> ''", "call_id"),
)
