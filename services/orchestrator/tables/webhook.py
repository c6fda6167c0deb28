"""Addresses to which events of groups are posted, and what is posted."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    false,
    true,
)

from services.common.db.types import JsonDocument, UtcDateTime
from services.orchestrator.tables.columns import GROUP, ID, metadata, partial_index

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", ID, primary_key=True),
    Column("group_id", GROUP, nullable=False),
    Column("url", String(2048), nullable=False),
    Column("description", String(1024), nullable=False),
    Column("chosen", JsonDocument, nullable=False),  # EventFilter
    # Of a webhook that is bound always true: the release before could not prove its deliveries to receivers.
    Column("paused", Boolean, nullable=False),
    Column("gone", Boolean, nullable=False),
    # Sealed for the row's id.
    Column("sealed_key", LargeBinary, nullable=False),
    # The group's events up to here have become deliveries; see repositories/group_events.py.
    Column("position_transaction", BigInteger, nullable=False),
    Column("position_id", BigInteger, nullable=False),
    Column("subject", String(512), nullable=False),
    Column("revision", Integer, nullable=False),
    # Which process sends now, and until when nobody else may.
    Column("sender", ID, nullable=False),
    Column("sender_until", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    # Of those that are bound to one execution, or to one task, which may have no execution yet. They have the sequence
    # up to which events have become deliveries, and their position is behind all events.
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE")),
    Column("task_id", ID, ForeignKey("a2a_tasks.id", ondelete="CASCADE")),
    Column("config_id", ID),
    Column("form", String(16), nullable=False, server_default="NOTIFICATION"),  # PayloadForm
    Column("sequence", BigInteger),
    # Whether it is paused; of others always true.
    Column("held", Boolean, nullable=False, server_default=true()),
    # Its execution has ended, and so have all its deliveries.
    Column("finished", Boolean, nullable=False, server_default=false()),
    # Signs beside the present key for a while. Sealed as that is.
    Column("former_key", LargeBinary),
    Column("former_key_until", UtcDateTime),
    Index("ix_webhooks_group_id_id", "group_id", "id"),
    Index("ix_webhooks_execution_id", "execution_id"),
    Index("uq_webhooks_task_id_config_id", "task_id", "config_id", unique=True),
    partial_index("webhooks", "NOT (paused AND held) AND NOT finished", "group_id"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", ID, primary_key=True),
    Column("webhook_id", ID, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    # NULL for an event of a schedule: such deliveries wait for no others.
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE")),
    Column("sequence", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_status", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("first_attempt_at", UtcDateTime),
    # Of the pending ones of an execution the first alone has it: the others wait for that one.
    Column("next_attempt_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    # The event of the group, without an execution: there, the execution and the sequence tell which it is.
    Column("event_id", BigInteger),
    partial_index("webhook_deliveries", "event_id IS NOT NULL", "webhook_id", "event_id", unique=True),
    Index(
        "uq_webhook_deliveries_webhook_id_execution_id_sequence", "webhook_id", "execution_id", "sequence", unique=True
    ),
    Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),
    Index("ix_webhook_deliveries_execution_id", "execution_id"),
    Index("ix_webhook_deliveries_ended_at", "ended_at"),
    partial_index("webhook_deliveries", "state = 'PENDING'", "webhook_id", "execution_id", "sequence"),
    partial_index("webhook_deliveries", "next_attempt_at IS NOT NULL", "webhook_id", "next_attempt_at"),
)
