"""What happens in executions."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, String, Table

from services.common.db.types import JsonDocument, UtcDateTime
from services.orchestrator.tables.columns import GROUP, ID, metadata

execution_events = Table(
    "execution_events",
    metadata,
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time", UtcDateTime, nullable=False),
    Column("kind", String(32), nullable=False),  # the field set in ExecutionEvent.event
    Column("task_index", Integer),
    Column("task_name", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),
    # For model calls; chunks are pruned by it (within the call's range of sequences, which the primary key finds).
    Column("call_id", ID, nullable=False),
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
    Column("group_id", GROUP, nullable=False),
    # NULL for an event of a schedule; readers of the release before do not see such rows.
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE")),
    Column("sequence", BigInteger, nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("task_index", Integer),
    Column("task_name", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    # Of an event of a schedule, as the schedule was then; those of an execution are in its row.
    Column("schedule_id", ID),
    Column("crew_id", ID),
    Column("labels", JsonDocument),
    Column("stored_at", UtcDateTime, nullable=False),
    Index("ix_group_events_execution_id_sequence", "execution_id", "sequence"),
    # The one before stands for it. To be dropped with the next release, by IF EXISTS: some have dropped it already.
    Index("ix_group_events_execution_id", "execution_id"),
    Index("ix_group_events_group_id_transaction_id_id", "group_id", "transaction_id", "id"),
    Index("ix_group_events_stored_at", "stored_at"),
    # Ids of removed rows are never given out again.
    sqlite_autoincrement=True,
)
