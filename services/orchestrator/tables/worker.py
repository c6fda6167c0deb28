"""Worker hosts."""

from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table

from services.orchestrator.tables.columns import metadata

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
    # NULL from releases that do not say theirs.
    Column("release", String(64)),
)
