"""What use cases ask of storage, within one transaction; by group wherever a caller named the id."""

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.orchestrator.domain.approval import Approval, ApprovalState
from services.orchestrator.domain.crew import Crew, CrewSpec
from services.orchestrator.domain.event import NewEvent, StoredEvent
from services.orchestrator.domain.execution import Execution, ExecutionError, ExecutionState, TaskRun
from services.orchestrator.domain.schedule import Schedule


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a request_id unique."""

    group_id: str
    subject: str
    method: str
    request_id: str


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """What a request made before."""

    request_hash: str
    resource_id: str


class Requests(Protocol):
    """Requests that carried a request_id."""

    async def find(self, key: RequestKey) -> KnownRequest | None:
        """Return what the request made before, if it was."""
        ...

    async def claim(self, key: RequestKey, made: KnownRequest, at: datetime) -> KnownRequest | None:
        """Remember what the request makes, unless another one was first: then return what that one made."""
        ...

    async def oldest(self, before: datetime) -> datetime | None:
        """Return when the last of the oldest portion made before a time was made; None when none is that old."""
        ...

    async def forget(self, until: datetime) -> int:
        """Remove the requests made up to a time, and return how many there were."""
        ...


class Crews(Protocol):
    """Crews and their revisions."""

    async def insert(self, crew: Crew, subject: str) -> bool:
        """Store a new crew; False when the group has one of that name."""
        ...

    async def get(self, group_id: str, crew_id: str, revision: int = 0, *, deleted: bool = False) -> Crew | None:
        """Return a crew at a revision (0: the newest); deleted ones only when asked for."""
        ...

    async def get_by_name(self, group_id: str, name: str, revision: int = 0) -> Crew | None:
        """Return a crew that is not deleted, by name."""
        ...

    async def lock(self, group_id: str, crew_id: str) -> Crew | None:
        """Return a crew at its newest revision, and keep others from changing it until the transaction ends."""
        ...

    async def add_revision(self, crew: Crew, subject: str) -> bool:
        """Store the next revision of a locked crew; False when the group has another crew of its new name."""
        ...

    async def delete(self, crew_id: str, at: datetime) -> None:
        """Take a crew out of listings."""
        ...

    async def page(self, group_id: str, before_id: str | None, limit: int) -> list[Crew]:
        """Return crews with an id below `before_id`, newest first."""
        ...

    async def spec(self, crew_id: str, revision: int) -> CrewSpec:
        """Return the document of a revision that exists, whether or not the crew is deleted."""
        ...


class Executions(Protocol):
    """Executions and their tasks."""

    async def insert(self, execution: Execution, task_runs: Sequence[TaskRun]) -> None:
        """Store a new execution with its tasks."""
        ...

    async def get(self, group_id: str, execution_id: str) -> Execution | None:
        """Return an execution of a group."""
        ...

    async def lock(self, execution_id: str, group_id: str | None = None) -> Execution | None:
        """Return an execution (of any group: None), and keep others from changing it until the transaction ends."""
        ...

    async def page(
        self,
        group_id: str,
        crew_id: str,
        schedule_id: str,
        states: Collection[ExecutionState],
        before_id: str | None,
        limit: int,
    ) -> list[Execution]:
        """Return executions with an id below `before_id`, newest first, inputs and results left out.

        An empty `crew_id` or `schedule_id`, or no states, stand for all.
        """
        ...

    async def task_runs(
        self, execution_id: str, *, after: int | None = None, limit: int | None = None
    ) -> list[TaskRun]:
        """Return the tasks of an execution in the crew's order: all, or up to `limit` behind the place `after`."""
        ...

    async def request_cancel(self, execution_id: str, at: datetime) -> None:
        """Note that the execution's end is asked for; the first time counts."""
        ...

    async def end(self, execution_id: str, state: ExecutionState, error: ExecutionError | None, at: datetime) -> None:
        """End a locked execution on which no worker is at work, with its unfinished tasks and open approvals."""
        ...

    async def wake(self, execution_id: str) -> None:
        """Make a locked, parked execution ready for its next segment."""
        ...

    async def count(self, states: Collection[ExecutionState]) -> dict[ExecutionState, int]:
        """Return how many executions of all groups are in each of these states; states that none is in are left out."""
        ...

    async def overdue(self, now: datetime, limit: int) -> list[str]:
        """Return the ids of executions that wait, with no worker at work, beyond deadline or cancellation."""
        ...

    async def open_grants(self, ended_before: datetime, limit: int) -> list[str]:
        """Return the ids of executions that ended and whose grant has not been seen revoked."""
        ...

    async def grant_closed(self, execution_id: str) -> None:
        """Note that the grant is revoked."""
        ...


class Events(Protocol):
    """What happened in executions."""

    async def append(self, execution_id: str, events: Sequence[NewEvent], *, epoch: int | None = None) -> int | None:
        """Store events in order and return the sequence of the last.

        With `epoch` (a worker's claim) nothing is stored, and None returned, once the execution has another one or has
        ended.
        """
        ...

    async def after(self, execution_id: str, sequence: int, limit: int, *, chunks: bool = True) -> list[StoredEvent]:
        """Return up to `limit` events after a sequence, in order, with or without pieces of models' answers."""
        ...

    async def newest(self, execution_ids: Collection[str]) -> dict[str, int]:
        """Return the newest sequence of each of these executions."""
        ...


class Approvals(Protocol):
    """Results that wait, or waited, for a person."""

    async def get(self, group_id: str, approval_id: str) -> Approval | None:
        """Return an approval of a group."""
        ...

    async def answer(self, approval_id: str, state: ApprovalState, feedback: str, subject: str, at: datetime) -> None:
        """Store the answer to an approval whose execution is locked."""
        ...


class Schedules(Protocol):
    """Schedules; those that were deleted are not returned."""

    async def insert(self, schedule: Schedule) -> bool:
        """Store a new schedule; False when the group has one of that name."""
        ...

    async def get(self, group_id: str, schedule_id: str, *, deleted: bool = False) -> Schedule | None:
        """Return a schedule of a group; a deleted one only when asked for."""
        ...

    async def lock(self, group_id: str, schedule_id: str) -> Schedule | None:
        """Return a schedule, and keep others from changing it until the transaction ends."""
        ...

    async def page(self, group_id: str, after_name: str | None, limit: int) -> list[Schedule]:
        """Return schedules with a name behind `after_name`, by name."""
        ...

    async def save(self, schedule: Schedule) -> bool:
        """Store a locked schedule as it is now; False when the group has another one of its new name."""
        ...

    async def delete(self, schedule_id: str, at: datetime) -> None:
        """Take a schedule out of listings; it fires no more."""
        ...

    async def due(self, now: datetime, after: tuple[datetime, str] | None, limit: int) -> list[tuple[datetime, str]]:
        """Return when schedules of all groups had to fire, and their ids: those behind `after`, longest due first."""
        ...

    async def find_due(self, schedule_id: str, now: datetime) -> Schedule | None:
        """Return a schedule of any group if it has to fire."""
        ...

    async def fired(self, before: Schedule, after: Schedule) -> bool:
        """Store what firing has made of a schedule; False when another process fired it, or somebody changed it."""
        ...


class UnitOfWork(Protocol):
    """One transaction."""

    @property
    def requests(self) -> Requests:
        """Requests that carried a request_id."""
        ...

    @property
    def crews(self) -> Crews:
        """Crews and their revisions."""
        ...

    @property
    def executions(self) -> Executions:
        """Executions and their tasks."""
        ...

    @property
    def events(self) -> Events:
        """What happened in executions."""
        ...

    @property
    def approvals(self) -> Approvals:
        """Results that wait for a person."""
        ...

    @property
    def schedules(self) -> Schedules:
        """Executions by the clock."""
        ...


class Store(Protocol):
    """Gives out transactions."""

    def read(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Begin a transaction that only reads."""
        ...

    def write(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Begin a transaction that commits when the block ends and rolls back when it raises."""
        ...
