"""One crew that runs with many inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.orchestrator.domain.execution import ExecutionError, ExecutionState, Start, Usage


@dataclass(frozen=True, slots=True)
class Batch:
    """One crew that runs with many inputs, as its row says."""

    id: str
    group_id: str
    subject: str
    crew_name: str
    start: Start
    """What each execution is, with the inputs that count for all; the crew is named by id and revision."""
    max_parallel: int
    total: int
    started: int
    """Executions are made in order: this is also the index of the next one."""
    grant_id: str
    created_at: datetime
    cancel_requested_at: datetime | None = None
    ended_at: datetime | None = None
    error: ExecutionError | None = None
    """Why no more executions can be made."""

    @property
    def exhausted(self) -> bool:
        """Whether no more executions are made of it."""
        return self.started == self.total or self.cancel_requested_at is not None or self.error is not None


@dataclass(frozen=True, slots=True)
class BatchFailure:
    """An execution of a batch that failed."""

    execution_id: str
    index: int
    error: ExecutionError


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """A batch, and what its executions have come to."""

    batch: Batch
    counts: Mapping[ExecutionState, int] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    failures: Sequence[BatchFailure] = ()
    pending_reason: ExecutionError | None = None
    """What keeps its next execution from being made; it passes."""

    @property
    def open(self) -> int:
        """How many of its executions have not ended."""
        return sum(count for state, count in self.counts.items() if not state.terminal)


@dataclass(frozen=True, slots=True)
class BatchPlace:
    """Where an execution belongs within a batch."""

    batch_id: str
    index: int
