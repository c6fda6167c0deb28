"""For how long executions are kept after their end."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retention:
    """What counts for a group."""

    seconds: float
    """0 means for ever."""
    chosen: bool
    """Whether the group chose it; otherwise it is the operator's default."""
