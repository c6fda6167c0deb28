"""Leases: which worker hosts are alive."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lease:
    """A host's lease; moments in seconds since 1970."""

    executor_id: str
    started_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A host's lease as another host finds it."""

    executor_id: str
    expired: bool
    lock_key: int | None
    """Names the lock that the host's process holds while it lives; None when it has none that proves anything."""
    locked: bool
    """Whether that lock is held."""
    started_at: float = 0.0
    """When the host started, in seconds since 1970."""
