"""How much of each thing a group may have or do, as the operator has set it; it travels with every principal."""

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """The limits that count for a group, by the fields of `coxswain.auth.v1.GroupLimits`; None: unlimited."""

    calls_per_minute: int | None = None
    calls_burst: int | None = None
    """None: as many as `calls_per_minute`."""
    max_open_streams: int | None = None
    max_open_streams_per_subject: int | None = None
    max_open_executions: int | None = None
    max_running_executions: int | None = None
    max_crews: int | None = None
    max_schedules: int | None = None
    max_members: int | None = None
    max_secrets: int | None = None
    max_models: int | None = None
    model_calls_per_minute: int | None = None
    monthly_cost_ceiling: float | None = None
    """US dollars."""
    max_records: int | None = None
    max_stored_bytes: int | None = None

    def to_claim(self) -> dict[str, float]:
        """Return the limits there are, by name."""
        return {name: value for name in LIMIT_NAMES if (value := getattr(self, name)) is not None}

    @classmethod
    def from_claim(cls, claim: Mapping[str, float]) -> "GroupLimits":
        """Return the limits of a claim; a name that a newer auth has added is left out."""
        known = {name: value for name, value in claim.items() if name in LIMIT_NAMES}
        return cls(**known) if known else NO_GROUP_LIMITS  # type: ignore[arg-type]


LIMIT_NAMES = tuple(each.name for each in fields(GroupLimits))
"""Every limit, in the order in which they are shown."""
UNLIMITED = -1
"""What is set for a limit so that its default does not count."""
NO_GROUP_LIMITS = GroupLimits()
"""Everything is unlimited."""
