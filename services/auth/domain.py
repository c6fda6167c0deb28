"""Identities, groups, secrets, signing keys, grants and outbound credentials."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from services.common.identity.principal import CredentialKind, Role


@dataclass(frozen=True, slots=True)
class VerifiedIdentity:
    """The identity that a credential proves."""

    subject: str
    """Issuer and subject joined by `|`."""
    kind: CredentialKind
    expires_at: datetime
    claimed_roles: Mapping[str, Role] = field(default_factory=dict)
    """Groups and roles that the credential itself carries, in addition to stored memberships."""
    platform_admin: bool = False
    """Whether the credential itself says so, in addition to the stored list."""
    origin: str = ""
    """For a user's own token: the only origin it may be sent to."""
    issued_at: datetime | None = None
    """When the credential was issued, where it says so."""
    known_since: datetime | None = None
    """Since when this installation knows the credential; None: since it was first shown."""


@dataclass(frozen=True, slots=True)
class Session:
    """What auth keeps of a verified credential until it expires."""

    id: str
    subject: str
    kind: CredentialKind
    origin: str
    expires_at: datetime
    claimed_roles: Mapping[str, Role]
    sealed_token: "Sealed | None"
    """The user's own token; None when there is nothing to act with."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """Bytes sealed under one key of the key ring."""

    key_id: str
    blob: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Group:
    """A tenant."""

    id: str
    display_name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Member:
    """A subject's membership of a group."""

    subject: str
    role: Role
    created_at: datetime
    invited: bool
    """Whether they have not accepted yet: until then the membership counts for nothing."""


TOKEN_ISSUER = "token"
"""The issuer in the subjects of tokens of groups."""


@dataclass(frozen=True, slots=True)
class ServiceToken:
    """What is kept of a group's token for a machine; not the token."""

    group_id: str
    name: str
    role: Role
    created_by: str
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Secret:
    """A stored secret without its value."""

    id: str
    group_id: str
    name: str
    version: int
    """Rises with each value."""
    fingerprint: str
    allowed_origins: tuple[str, ...]
    sealed: Sealed
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RotationProgress:
    """How many of all sealed values are sealed under the newest key."""

    done: int
    total: int
    key_id: str
    """The newest key."""


class SigningKeyState(StrEnum):
    """A key is published before it signs and stays published while tokens it signed are valid."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    RETIRING = "RETIRING"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair that principal tokens are signed with."""

    kid: str
    state: SigningKeyState
    public_key: bytes
    """The 32 bytes of an Ed25519 public key."""
    sealed_private_key: Sealed
    created_at: datetime
    changed_at: datetime
    """When it came into its state."""


class ExecutionIdentity(StrEnum):
    """As whom an execution acts."""

    USER = "USER"
    GROUP = "GROUP"


class OnCredentialExpiry(StrEnum):
    """What happens when the user's token expires during an execution."""

    PARK = "PARK"
    FAIL = "FAIL"
    USE_GROUP_IDENTITY = "USE_GROUP_IDENTITY"


@dataclass(frozen=True, slots=True)
class Claim:
    """A role that a credential itself carried."""

    role: Role
    seen_at: datetime
    """When the credential was shown; its issuer may have withdrawn the role since."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The right of one execution to act for a subject in a group."""

    id: str
    execution_id: str
    group_id: str
    subject: str
    identity: ExecutionIdentity
    on_credential_expiry: OnCredentialExpiry
    credential_kind: CredentialKind
    """How the subject proved their identity."""
    session_id: str
    """The session whose token the execution uses; empty when it uses none."""
    credential_expires_at: datetime | None
    """When that token expires; None without one."""
    claim: Claim | None
    """The role the credential itself carried, for subjects who are not stored members."""
    created_at: datetime
    revoked_at: datetime | None


class CredentialPurpose(StrEnum):
    """What an outbound credential is used for; each purpose has a chain of its own."""

    DATABRICKS = "DATABRICKS"
    VECTOR_SEARCH = "VECTOR_SEARCH"
    LLM_PROVIDER = "LLM_PROVIDER"
    TOOL = "TOOL"
    TOOL_CALLER = "TOOL_CALLER"
    POSTGRESQL = "POSTGRESQL"


@dataclass(frozen=True, slots=True)
class CredentialReference:
    """Which credential a caller asks for."""

    purpose: CredentialPurpose
    destination: str = ""
    """The origin it will be sent to; empty: the one it belongs to."""
    provider: str = ""
    """The LLM provider; it counts for that purpose alone."""
    secret_name: str = ""
    """The group's secret of a tool or of a database; it counts for these purposes alone."""


class LinkOutcome(StrEnum):
    """The result of asking one link of a chain."""

    USED = "USED"
    ABSENT = "ABSENT"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    NOT_REACHED = "NOT_REACHED"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class ResolvedCredential:
    """A secret and the only origin it may be sent to."""

    token: str = field(repr=False)
    origin: str
    link: str
    expires_at: datetime
    """Until when it may be cached."""
    on_behalf_of_user: bool = False


@dataclass(frozen=True, slots=True)
class LinkExplanation:
    """The result of asking one link, without any secret."""

    link: str
    outcome: LinkOutcome
    detail: str


@dataclass(frozen=True, slots=True)
class CredentialExplanation:
    """The results of the links of a chain, in order. No links: it was not known in time."""

    links: tuple[LinkExplanation, ...] = ()
    origin: str | None = None
    """The origin the credential belongs to, None when there is none; empty where it is not the caller's to know."""
