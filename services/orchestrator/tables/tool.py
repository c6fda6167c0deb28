"""Sources of tools, their calls at the gateway, and what calls have used."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    false,
)

from services.common.db.types import JsonDocument, UtcDateTime
from services.orchestrator.tables.columns import GROUP, ID, NAME, metadata, partial_index

tool_sources = Table(
    "tool_sources",
    metadata,
    Column("id", ID, primary_key=True),
    Column("group_id", GROUP, nullable=False),
    Column("name", NAME, nullable=False),
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
    partial_index("tool_sources", "deleted_at IS NULL", "group_id", "name", unique=True),
    partial_index("tool_sources", "from_operator AND deleted_at IS NULL", "name"),
)

# Lists of the tools of sources; a list that is like the one before has no row of its own.
tool_source_revisions = Table(
    "tool_source_revisions",
    metadata,
    Column("source_id", ID, ForeignKey("tool_sources.id", ondelete="CASCADE"), primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("tools", JsonDocument, nullable=False),  # a list of ListedTool
    Column("created_at", UtcDateTime, nullable=False),
)

gateway_calls = Table(
    "gateway_calls",
    metadata,
    Column("group_id", GROUP, primary_key=True),
    Column("call_id", ID, primary_key=True),
    Column("execution_id", ID, nullable=False),  # empty for a call of TestTool
    Column("source", String(256), nullable=False),  # or the name of a built-in tool
    # A row is stored before the first byte leaves: a call without one has had no effect.
    Column("sent_at", UtcDateTime, nullable=False),
    Column("replica", ID, nullable=False),  # the process that makes the call
    Column("leased_until", UtcDateTime, nullable=False),  # renewed while it does
    Column("handle", LargeBinary),  # sealed; what finds the call again at its source
    Column("outcome", LargeBinary),  # sealed; ToolOutcome, until nobody may want it any more
    Column("ended_at", UtcDateTime),
    Column("question", LargeBinary),  # sealed; the open SourceQuestion
    Column("answer", LargeBinary),  # sealed; of a person, for the replica that makes the call
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Index("ix_gateway_calls_execution_id", "execution_id"),
    Index("ix_gateway_calls_group_id_source_sent_at", "group_id", "source", "sent_at"),
    partial_index("gateway_calls", "ended_at IS NULL", "replica"),
    partial_index("gateway_calls", "outcome IS NOT NULL", "ended_at"),
)

# Calls of tools that have ended. They outlive their executions, as what models have used does. Two executions that
# continue the same one may have made one call; each of them has its row.
tool_usage = Table(
    "tool_usage",
    metadata,
    Column("id", ID, primary_key=True),  # the call's id
    Column("group_id", GROUP, nullable=False),
    Column("subject", String(512), nullable=False),
    Column("execution_id", ID, primary_key=True),  # empty for a call of TestTool, like the crew and the task
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
