"""Which executions of a group are listed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from services.orchestrator.domain.execution import ExecutionState


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """What listed executions have in common; what is empty or None chooses all."""

    crew_id: str = ""
    schedule_id: str = ""
    states: frozenset[ExecutionState] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    subject: str = ""
    min_created_at: datetime | None = None
    max_created_at: datetime | None = None
    """Created before this time."""
    min_ended_at: datetime | None = None
    max_ended_at: datetime | None = None
    """Ended before this time."""
    error_reason: str = ""
    resumed_from: str = ""
    batch_id: str = ""

    def fingerprint(self) -> dict[str, object]:
        """Return what page tokens are bound to."""
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        given |= {"states": sorted(self.states), "labels": sorted(self.labels.items())}
        # Without what is empty, tokens stay valid when a release adds a filter.
        return {name: value for name, value in given.items() if value not in ("", None, [])}
