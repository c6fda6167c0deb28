"""Tables of auth's database."""

from sqlalchemy import Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint, text

from services.common.db.types import NAMING_CONVENTION, JsonDocument, UtcDateTime

metadata = MetaData(naming_convention=NAMING_CONVENTION)

groups = Table(
    "groups",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("display_name", String(200), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

memberships = Table(
    "memberships",
    metadata,
    Column("group_id", String(128), primary_key=True),
    Column("subject", String(512), primary_key=True),
    Column("role", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "subject"),
)

platform_admins = Table(
    "platform_admins",
    metadata,
    Column("subject", String(512), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
)

# What a request_id made, so that repeating the request finds it; removed when nobody repeats it any more.
requests = Table(
    "requests",
    metadata,
    Column("group_id", String(128), primary_key=True),
    Column("subject", String(512), primary_key=True),
    Column("method", String(128), primary_key=True),
    Column("request_id", String(128), primary_key=True),
    Column("request_hash", String(64), nullable=False),
    Column("resource_id", String(128), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_requests_created_at", "created_at"),
)

encryption_keys = Table(
    "encryption_keys",
    metadata,
    Column("key_id", String(64), primary_key=True),
    # A known text sealed under the key: a replica whose key differs finds out before it writes anything.
    Column("check_value", LargeBinary, nullable=False),
    Column("sealing", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(
        "uq_encryption_keys_sealing",
        "sealing",
        unique=True,
        sqlite_where=text("sealing"),
        postgresql_where=text("sealing"),
    ),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String(64), primary_key=True),
    Column("state", Integer, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    # At most one key waits and at most one signs, however many replicas rotate at once.
    Index(
        "uq_signing_keys_state",
        "state",
        unique=True,
        sqlite_where=text("state < 3"),
        postgresql_where=text("state < 3"),
    ),
)

credential_sessions = Table(
    "credential_sessions",
    metadata,
    Column("id", String(36), primary_key=True),
    # HMAC of the credential and of what it was found to mean.
    Column("credential_hash", String(64), nullable=False),
    Column("subject", String(512), nullable=False),
    Column("kind", Integer, nullable=False),
    Column("origin", String(512), nullable=False),
    Column("claimed_roles", JsonDocument, nullable=False),
    Column("key_id", String(64), nullable=True),
    Column("sealed", LargeBinary, nullable=True),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("credential_hash"),
    Index(None, "expires_at"),
)

grants = Table(
    "grants",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("execution_id", String(64), nullable=False),
    Column("group_id", String(128), nullable=False),
    Column("subject", String(512), nullable=False),
    Column("identity", Integer, nullable=False),
    Column("on_credential_expiry", Integer, nullable=False),
    Column("credential_kind", Integer, nullable=False),
    Column("session_id", String(36), nullable=False),
    Column("credential_expires_at", UtcDateTime, nullable=True),
    Column("claimed_role", Integer, nullable=True),
    Column("claimed_at", UtcDateTime, nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime, nullable=True),
    UniqueConstraint("execution_id"),
    Index(None, "revoked_at"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("group_id", String(128), nullable=False),
    Column("name", String(128), nullable=False),
    Column("version", Integer, nullable=False),
    Column("fingerprint", String(12), nullable=False),
    Column("allowed_origins", JsonDocument, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("group_id", "name"),
)
