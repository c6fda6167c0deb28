"""Hints: there is something to read."""

from dataclasses import dataclass
from enum import StrEnum


class HintKind(StrEnum):
    """What there is to read; all but RESYNC have the names of `coxswain.orchestrator.v1.HintKind`."""

    EXECUTION_READY = "EXECUTION_READY"
    """An execution is ready for a worker."""
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    """The cancellation of a running execution was requested."""
    EVENTS_STORED = "EVENTS_STORED"
    """An execution has new events."""
    QUESTIONS_CHANGED = "QUESTIONS_CHANGED"
    """Questions of an execution were asked, answered or closed."""
    WORK_STORED = "WORK_STORED"
    """A schedule, a batch or an execution that waits for its turn was stored, for any replica of the API to go on."""
    RESYNC = "RESYNC"
    """Hints may have been lost: read everything. Made by a bus, never published."""


@dataclass(frozen=True, slots=True)
class Hint:
    """Says that there is something to read."""

    kind: HintKind
    execution_id: str = ""
    last_sequence: int = 0
    """For EVENTS_STORED: the newest sequence."""
    group_id: str = ""
    """For EVENTS_STORED: the group, when one of the events is in its stream."""
