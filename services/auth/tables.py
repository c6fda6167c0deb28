"""Tables of auth's database."""

from enum import Enum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator

from services.auth.domain import ExecutionIdentity, OnCredentialExpiry, SigningKeyState
from services.common.db.idempotency import requests_table
from services.common.db.types import NAMING_CONVENTION, JsonDocument, UtcDateTime
from services.common.identity.group_limits import LIMIT_NAMES
from services.common.identity.principal import CredentialKind, Role


class Numbered(TypeDecorator[Any]):
    """A member of an enum, stored as its position from 1: a new member is added at the end."""

    impl = Integer
    cache_ok = True

    def __init__(self, kind: type[Enum]) -> None:
        super().__init__()
        self.kind = kind
        self._members = tuple(kind)

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Return the number of a member."""
        return None if value is None else self._members.index(value) + 1

    def process_result_value(self, value: int | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """Return the member of a number."""
        return None if value is None else self._members[value - 1]


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
    Column("role", Numbered(Role), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # When an admin has invited the subject; NULL once they have accepted.
    Column("invited_at", UtcDateTime),
    Index(None, "subject"),
)

# What the operator has set for groups; NULL: the installation's default, -1: unlimited.
group_limits = Table(
    "group_limits",
    metadata,
    Column("group_id", String(128), primary_key=True),
    *(Column(name, Float if name == "monthly_cost_ceiling" else BigInteger) for name in LIMIT_NAMES),
    Column("updated_at", UtcDateTime, nullable=False),
)

# What groups' admins have lowered; NULL: it is as the operator has it.
lowered_group_limits = Table(
    "lowered_group_limits",
    metadata,
    Column("group_id", String(128), primary_key=True),
    *(Column(name, Float if name == "monthly_cost_ceiling" else BigInteger) for name in LIMIT_NAMES),
    Column("updated_at", UtcDateTime, nullable=False),
)

# Calls that are left to groups whose calls are limited, over all processes.
group_calls = Table(
    "group_calls",
    metadata,
    Column("group_id", String(128), primary_key=True),
    Column("calls_left", Float, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index(None, "updated_at"),
)

# Open streams of groups whose streams are limited, by process.
group_streams = Table(
    "group_streams",
    metadata,
    Column("group_id", String(128), primary_key=True),
    Column("process_id", String(64), primary_key=True),
    Column("open_streams", Integer, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index(None, "updated_at"),
)

# The number of the newest report of calls that a process has made, so that none counts twice.
traffic_reports = Table(
    "traffic_reports",
    metadata,
    Column("process_id", String(64), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index(None, "updated_at"),
)

# The newest change of each subject and group; the group "" stands for all.
access_changes = Table(
    "access_changes",
    metadata,
    Column("subject", String(512), primary_key=True),
    Column("group_id", String(128), primary_key=True),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime, nullable=True),
    Index(None, "changed_at"),
)

# Tokens of groups for machines; of a token itself its SHA-256 alone is kept.
service_tokens = Table(
    "service_tokens",
    metadata,
    Column("group_id", String(128), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("token_hash", String(64), nullable=False),
    Column("role", Numbered(Role), nullable=False),
    Column("created_by", String(512), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime, nullable=True),
    UniqueConstraint("token_hash"),
)

platform_admins = Table(
    "platform_admins",
    metadata,
    Column("subject", String(512), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
)

requests = requests_table(metadata)

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
    Column("state", Numbered(SigningKeyState), nullable=False),
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
    Column("kind", Numbered(CredentialKind), nullable=False),
    Column("origin", String(512), nullable=False),
    Column("claimed_roles", JsonDocument, nullable=False),
    Column("key_id", String(64), nullable=True),
    Column("sealed", LargeBinary, nullable=True),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("credential_hash"),
    Index(None, "expires_at"),
    Index(None, "subject"),
)

grants = Table(
    "grants",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("execution_id", String(64), nullable=False),
    Column("group_id", String(128), nullable=False),
    Column("subject", String(512), nullable=False),
    Column("identity", Numbered(ExecutionIdentity), nullable=False),
    Column("on_credential_expiry", Numbered(OnCredentialExpiry), nullable=False),
    Column("credential_kind", Numbered(CredentialKind), nullable=False),
    Column("session_id", String(36), nullable=False),
    Column("credential_expires_at", UtcDateTime, nullable=True),
    Column("claimed_role", Numbered(Role), nullable=True),
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
