"""What happens in a group: events that tell how far its executions have come, or that a schedule started none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from services.orchestrator.domain.event import StoredEvent


class Position(NamedTuple):
    """A place in the order in which the events of all groups were committed."""

    transaction_id: int
    """0 on SQLite, where ids alone are in the order of commits."""
    id: int


@dataclass(frozen=True, slots=True)
class GroupEvent:
    """An event of an execution or of a schedule, without results, and what it can be chosen by."""

    position: Position
    stored_at: datetime
    execution_id: str
    """Empty for an event of a schedule."""
    crew_id: str
    crew_name: str
    """Empty for an event of a schedule."""
    schedule_id: str
    batch_id: str
    labels: Mapping[str, str]
    event: StoredEvent


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events of a group are shown; what is empty chooses all."""

    kinds: frozenset[str] = frozenset()
    crew_id: str = ""
    schedule_id: str = ""
    batch_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def shows(self, event: GroupEvent) -> bool:
        """Return whether an event is one of those chosen."""
        return (
            (not self.kinds or event.event.kind in self.kinds)
            and self.crew_id in {"", event.crew_id}
            and self.schedule_id in {"", event.schedule_id}
            and self.batch_id in {"", event.batch_id}
            and self.labels.items() <= event.labels.items()
        )
