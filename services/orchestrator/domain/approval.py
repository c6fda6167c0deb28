"""Decisions of people about the results of tasks."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.orchestrator.domain.execution import TaskOutput


class ApprovalState(StrEnum):
    """Where an approval stands."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REFUSED = "REFUSED"
    VOID = "VOID"
    """Its execution ended before an answer came."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's say over a result."""

    id: str
    execution_id: str
    group_id: str
    task_index: int
    task_name: str
    attempt: int
    state: ApprovalState
    output: TaskOutput
    requested_at: datetime
    feedback: str = ""
    answered_by: str = ""
    answered_at: datetime | None = None
