"""Who a call is made by."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

from services.common.identity.group_limits import NO_GROUP_LIMITS, GroupLimits


class Role(IntEnum):
    """What a member may do in a group; the numbers are those of `coxswain.common.v1.Role`."""

    ANONYMOUS = 1
    OPERATOR = 2
    EDITOR = 3
    ADMIN = 4
    PLATFORM_ADMIN = 5
    """Required by methods that administer the installation; never a member's role in a group."""


class CredentialKind(IntEnum):
    """What a caller proved their identity with; the numbers are those of `coxswain.auth.v1.CredentialKind`."""

    USER = 1
    WORKLOAD = 2
    GROUP = 3
    DEV = 4


def subject_hash(subject: str) -> str:
    """Return what stands for a subject where they are not named: the SHA-256 of their name, in hex."""
    return hashlib.sha256(subject.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Principal:
    """One subject in one group, verified by auth."""

    subject: str
    """Issuer and subject joined by `|`."""
    group_id: str
    role: Role
    platform_admin: bool
    credential_kind: CredentialKind
    session_id: str
    """The credential session auth keeps for the subject's own token; empty when there is none."""
    execution_id: str
    """The execution on whose behalf the call is made; empty for direct calls."""
    expires_at: datetime
    token: str = field(default="", repr=False, compare=False)
    """The signed token that stands for the principal between services."""
    limits: GroupLimits = field(default=NO_GROUP_LIMITS, compare=False)
    """What the operator allows the group."""
    issued_at: float = field(default=0.0, compare=False)
    """When auth began to issue it, in seconds since 1970: what it read for that, it read later."""
