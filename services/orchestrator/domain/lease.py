"""Leases: which worker hosts are alive."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lease:
    """A host's lease; moments in seconds since 1970."""

    executor_id: str
    started_at: float
    expires_at: float
