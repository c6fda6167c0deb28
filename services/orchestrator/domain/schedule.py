"""Executions by the clock."""

from dataclasses import dataclass, replace
from datetime import datetime

from services.orchestrator.domain.execution import ExecutionError, OverlapPolicy, Start


@dataclass(frozen=True, slots=True)
class Plan:
    """What a caller may choose of a schedule."""

    name: str
    cron: str
    time_zone: str
    """Empty means UTC."""
    start: Start
    paused: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """Executions by the clock."""

    id: str
    group_id: str
    subject: str
    """Who created or last changed it, and whom it acts for."""
    name: str
    cron: str
    time_zone: str
    """Empty means UTC."""
    start: Start
    paused: bool
    delegate_id: str
    """Id under which auth keeps its grant; a new one with each change."""
    grant_id: str
    revision: int
    """Number of the last change: what was read before it must not fire after it."""
    next_fire_at: datetime | None
    """None while it is paused."""
    created_at: datetime
    updated_at: datetime
    last_fire_at: datetime | None = None
    last_execution_id: str = ""
    last_error: ExecutionError | None = None
    """Why it started nothing when it fired last."""

    @property
    def keyed_start(self) -> Start:
        """What it starts: without a key of its own, the overlap policy is about the schedule's executions."""
        return keyed(self.start, self.id)


def keyed(start: Start, schedule_id: str) -> Start:
    """Return what a schedule starts, with a key if its overlap policy needs one."""
    if start.concurrency_key or start.overlap_policy is OverlapPolicy.ALLOW:
        return start
    return replace(start, concurrency_key=f"schedule {schedule_id}")
