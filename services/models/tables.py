"""The models service's tables."""

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
_SUBJECT = String(512)
_SORTED_MODEL = String(128).with_variant(String(128, collation="C"), "postgresql")
_SORTED_SUBJECT = String(512).with_variant(String(512, collation="C"), "postgresql")
# Names page in the same order on both databases.
_NAME = String(128).with_variant(String(128, collation="C"), "postgresql")

models = Table(
    "models",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("group_id", _GROUP, nullable=False),  # empty: shared by all groups
    Column("name", _NAME, nullable=False),
    Column("description", Text, nullable=False),
    Column("provider", String(32), nullable=False),
    Column("upstream_model", String(256), nullable=False),
    Column("base_url", String(512), nullable=False),
    Column("capabilities", JsonDocument, nullable=False),  # names of what it can do
    Column("context_window", Integer, nullable=False),
    Column("max_output_tokens", Integer, nullable=False),
    Column("embedding_dimension", Integer, nullable=False),
    Column("max_texts_per_request", Integer, nullable=False, server_default=text("0")),
    Column("temperature", Float),
    Column("provider_options", JsonDocument, nullable=False, server_default=text("'{}'")),  # values by name
    Column("max_input_tokens", Integer, nullable=False, server_default="0"),
    Column("input_cost_per_million_tokens", Float),
    Column("output_cost_per_million_tokens", Float),
    Column("cached_input_cost_per_million_tokens", Float),
    Column("cache_write_cost_per_million_tokens", Float),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("keep_think_tags", Boolean, nullable=False, server_default=false()),
    Column("unsupported_parameters", JsonDocument, nullable=False, server_default=text("'[]'")),  # names
    Column("fallbacks", JsonDocument, nullable=False, server_default=text("'{}'")),  # lists of names by occasion
    Column("deployments", JsonDocument, nullable=False, server_default=text("'[]'")),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("uq_models_group_id_name", "group_id", "name", unique=True),
)

# Models that a group has switched off for itself.
disabled_models = Table(
    "disabled_models",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("model_id", _ID, ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("disabled_at", UtcDateTime, nullable=False),
)

requests = requests_table(metadata)

# Answers that are given again, and claims of calls that are to store one.
stored_answers = Table(
    "stored_answers",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("key", String(64), primary_key=True),  # keyed hash of what finds it
    Column("body_hash", String(64), nullable=False),  # keyed; empty where the key holds it
    Column("sealed", LargeBinary),  # null: a claim
    Column("size", Integer, nullable=False),  # bytes
    Column("claimed_by", _ID, nullable=False),  # empty: an answer
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Index("ix_stored_answers_group_id_created_at", "group_id", "created_at"),
    Index("ix_stored_answers_expires_at", "expires_at"),
)

usage_records = Table(
    "usage_records",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("group_id", _GROUP, nullable=False),
    Column("model", String(128), nullable=False),  # the name: usage outlives its model
    Column("execution_id", _ID, nullable=False),  # empty: a direct call
    Column("called_at", UtcDateTime, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("cost", Float, nullable=False),  # US dollars
    Column("estimated", Boolean, nullable=False),
    # Rows of releases that did not know these have their defaults.
    Column("cache_write_input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("subject", _SUBJECT, nullable=False, server_default=""),
    Column("labels", JsonDocument, nullable=False, server_default=text("'{}'")),
    Index("ix_usage_records_group_id_called_at", "group_id", "called_at"),
    Index("ix_usage_records_group_id_execution_id", "group_id", "execution_id"),
)

# The sums that limits are held against, kept beside the records so that no call has to add them up.
usage_days = Table(
    "usage_days",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("day", String(10), primary_key=True),  # in UTC, as 2026-01-31
    Column("model", String(128), primary_key=True),
    Column("subject", _SUBJECT, primary_key=True),
    Column("tokens", BigInteger, nullable=False),  # of prompts and answers
    Column("cost", Float, nullable=False),  # US dollars
)

# Written by the release before this one, which may still run beside it; nothing reads it.
monthly_costs = Table(
    "monthly_costs",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("month", String(7), primary_key=True),
    Column("cost", Float, nullable=False),
)

# Limits of a scope: an empty model or subject means all. 0 means no limit.
budgets = Table(
    "budgets",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("monthly_cost_limit", Float, nullable=False),  # US dollars
    Column("calls_per_minute", Integer, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("model", _SORTED_MODEL, primary_key=True, server_default=""),
    Column("subject", _SORTED_SUBJECT, primary_key=True, server_default=""),
    Column("ceiling", Boolean, primary_key=True, server_default=false()),  # set by the operator
    Column("daily_cost_limit", Float, nullable=False, server_default="0"),  # US dollars
    Column("tokens_per_minute", BigInteger, nullable=False, server_default="0"),
    Column("tokens_per_day", BigInteger, nullable=False, server_default="0"),
    Column("tokens_per_month", BigInteger, nullable=False, server_default="0"),
    Column("alert_share", Float, nullable=False, server_default="0"),
    Column("cost_per_minute", Float, nullable=False, server_default="0"),  # US dollars
)

budget_alerts = Table(
    "budget_alerts",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("model", String(128), primary_key=True),
    Column("subject", _SUBJECT, primary_key=True),
    Column("ceiling", Boolean, primary_key=True),
    Column("limit_name", String(32), primary_key=True),
    Column("period", String(10), primary_key=True),  # the day or month
    Column("id", _ID, nullable=False),
    Column("allowed", Float, nullable=False),
    Column("used", Float, nullable=False),
    Column("alert_share", Float, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # 0: stored by the release before, while it ran beside this one. Such an alert is listed, and comes into streams
    # when this release finds it due.
    Column("sequence", BigInteger, nullable=False, server_default="0"),
    Index("ix_budget_alerts_group_id_id", "group_id", "id"),
    Index("ix_budget_alerts_group_id_sequence", "group_id", "sequence"),
)

# Locked while an alert is stored: those of a group become visible in the order of their sequences.
budget_alert_sequences = Table(
    "budget_alert_sequences",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("last_sequence", BigInteger, nullable=False),
)

# Calls counted in the present minute of scopes that have a limit on them.
call_counts = Table(
    "call_counts",
    metadata,
    Column("group_id", _GROUP, primary_key=True),
    Column("minute", BigInteger, nullable=False),  # since the epoch
    Column("calls", Integer, nullable=False),
    Column("model", String(128), primary_key=True, server_default=""),
    Column("subject", _SUBJECT, primary_key=True, server_default=""),
)
