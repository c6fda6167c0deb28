"""What worker hosts read, and what they write outside of a run: claims, and what is queued."""

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.domain.approval import Approval
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.document import from_document
from services.orchestrator.domain.event import CHUNK, NewEvent
from services.orchestrator.domain.execution import (
    Execution,
    ExecutionState,
    TaskRun,
)
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.events import new_event
from services.orchestrator.repositories.approvals import to_approval
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.repositories.executions import ExecutionRepository, to_execution
from services.orchestrator.repositories.leases import LeaseRepository
from services.orchestrator.tables import (
    approvals,
    crew_revisions,
    execution_events,
    executions,
    llm_journal,
    tool_journal,
)
from services.orchestrator.worker.host.fenced_write import Fenced, FencedWrite

_CLAIMABLE = [ExecutionState.QUEUED, ExecutionState.RUNNING]


@dataclass(frozen=True, slots=True)
class Ready:
    """An execution whose next segment waits to be put into the queue."""

    execution_id: str
    generation: int
    group_id: str
    priority: int


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution this host has claimed, as it stood at that moment."""

    execution: Execution
    """Its `epoch` is the claim's."""
    spec: CrewSpec
    tasks: tuple[TaskRun, ...]
    """In the crew's order."""
    approvals: dict[int, Approval]
    """The newest approval of each task that has one, by the task's index."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What the journal knows of a tool call."""

    state: ToolCallState
    output: str
    error: str


class RunStore:
    """Rows as worker hosts use them. Every method raises Unavailable while the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def renew_lease(self, executor_id: str, host_name: str, process_id: int, ttl: float) -> None:
        """Let a host live for `ttl` more seconds."""
        async with self._database.write() as connection:
            await LeaseRepository(connection).renew(executor_id, host_name, process_id, ttl)

    async def give_up_lease(self, executor_id: str) -> None:
        """Let a host's lease end now, so that others take over what it holds."""
        async with self._database.write() as connection:
            await LeaseRepository(connection).give_up(executor_id)

    async def dead_hosts(self, holders: Collection[str]) -> set[str]:
        """Return the hosts among `holders` that have no lease, and all whose lease has expired."""
        async with self._database.read() as connection:
            return await LeaseRepository(connection).dead(holders)

    async def forget_hosts(self, executor_ids: Collection[str]) -> None:
        """Remove the leases of hosts that are still expired."""
        async with self._database.write() as connection:
            await LeaseRepository(connection).forget(executor_ids)

    async def ready(self, limit: int) -> list[Ready]:
        """Return executions whose segments are to be queued, the longest waiting first."""
        rows = await self._database.fetch(
            select(executions.c.id, executions.c.generation, executions.c.group_id, executions.c.priority)
            .where(executions.c.ready.is_(True))
            .order_by(executions.c.created_at)
            .limit(limit)
        )
        return [Ready(*row.values()) for row in rows]

    async def handed_over(self, segment: Ready) -> None:
        """Note that the queue has a segment."""
        async with self._database.write() as connection:
            await connection.execute(
                update(executions)
                .where(executions.c.id == segment.execution_id, executions.c.generation == segment.generation)
                .values(ready=False)
            )

    async def at_work(self, after_id: str, limit: int) -> list[tuple[str, int]]:
        """Return id and generation of executions whose segments the queue should have, in the order of ids."""
        rows = await self._database.fetch(
            select(executions.c.id, executions.c.generation)
            .where(executions.c.id > after_id, executions.c.state.in_(_CLAIMABLE), executions.c.ready.is_(False))
            .order_by(executions.c.id)
            .limit(limit)
        )
        return [(row["id"], row["generation"]) for row in rows]

    async def hand_over_again(self, execution_id: str, generation: int) -> bool:
        """Make an execution ready for its next segment, unless it has moved on since; return whether it was."""
        async with self._database.write() as connection:
            changed = await connection.execute(
                update(executions)
                .where(
                    executions.c.id == execution_id,
                    executions.c.generation == generation,
                    executions.c.state.in_(_CLAIMABLE),
                    executions.c.ready.is_(False),
                )
                .values(generation=generation + 1, ready=True)
            )
            return bool(changed.rowcount)

    async def cancellations(self, execution_ids: Collection[str]) -> set[str]:
        """Return those executions whose cancellation was requested."""
        rows = await self._database.fetch(
            select(executions.c.id).where(
                executions.c.id.in_(execution_ids), executions.c.cancel_requested_at.is_not(None)
            )
        )
        return {row["id"] for row in rows}

    async def claim(self, execution_id: str, generation: int) -> Claim | None:
        """Take an execution: from now on no other host's write to it counts. None when there is nothing to take."""
        async with self._database.write() as connection:
            execution = await ExecutionRepository(connection).lock(execution_id)
            if execution is None or execution.generation != generation or execution.state not in _CLAIMABLE:
                return None
            claimed = await connection.execute(
                update(executions)
                .where(executions.c.id == execution_id)
                .values(
                    epoch=execution.epoch + 1,
                    state=ExecutionState.RUNNING,
                    ready=False,
                    started_at=execution.started_at or utc_now(),
                )
                .returning(executions)
            )
            taken = to_execution(claimed.one())
            started = execution_pb2.ExecutionStarted(
                claim=taken.epoch, takeover=execution.state is ExecutionState.RUNNING
            )
            last = await EventRepository(connection).append(execution_id, [new_event(started)])
            tasks = tuple(await ExecutionRepository(connection).task_runs(execution_id))
            asked = any(task.attempt for task in tasks)
            return Claim(
                execution=replace(taken, last_sequence=last or taken.last_sequence),
                spec=await _spec(connection, taken),
                tasks=tasks,
                approvals=await _approvals(connection, execution_id) if asked else {},
            )

    @contextlib.asynccontextmanager
    async def fenced(
        self, execution_id: str, epoch: int, events: Sequence[NewEvent] = ()
    ) -> AsyncIterator[FencedWrite]:
        """Yield a transaction that stores events and all that is done within, or nothing at all.

        Raises:
            Fenced: the claim is not the newest one, or the execution has ended.
        """
        async with self._database.write() as connection:
            last = await EventRepository(connection).append(execution_id, events, epoch=epoch)
            if last is None:
                raise Fenced(execution_id)
            yield FencedWrite(connection, execution_id, epoch, last)

    async def is_stored(self, execution_id: str, after_sequence: int, event: NewEvent) -> bool:
        """Return whether an event is among those after a sequence: whether a commit that was not confirmed was made."""
        return bool(
            await self._database.fetch(
                select(execution_events.c.sequence)
                .where(
                    execution_events.c.execution_id == execution_id,
                    execution_events.c.sequence > after_sequence,
                    execution_events.c.kind == event.kind,
                    execution_events.c.time == event.time,
                    execution_events.c.payload == event.payload,
                )
                .limit(1)
            )
        )

    async def wake(self, execution_id: str, epoch: int) -> bool:
        """Wake an execution that a claim has parked for its credential; return whether it was still parked."""
        async with self._database.write() as connection:
            work = ExecutionRepository(connection)
            execution = await work.lock(execution_id)
            parked = (
                execution is not None
                and execution.epoch == epoch
                and execution.state is ExecutionState.WAITING_FOR_CREDENTIAL
            )
            if parked:
                await work.wake(execution_id)
            return parked

    async def journaled_responses(self, execution_id: str, index: int) -> dict[tuple[str, int], bytes]:
        """Return the responses of models to earlier attempts at a task, by request hash and occurrence."""
        rows = await self._database.fetch(
            select(llm_journal.c.request_hash, llm_journal.c.occurrence, llm_journal.c.response).where(
                llm_journal.c.execution_id == execution_id, llm_journal.c.task_index == index
            )
        )
        return {(row["request_hash"], row["occurrence"]): row["response"] for row in rows}

    async def tool_calls(self, execution_id: str, index: int) -> dict[str, ToolCall]:
        """Return what is known of the tool calls of earlier attempts at a task, by their keys."""
        rows = await self._database.fetch(
            select(tool_journal).where(tool_journal.c.execution_id == execution_id, tool_journal.c.task_index == index)
        )
        return {
            row["call_key"]: ToolCall(ToolCallState(row["state"]), (row["result"] or b"").decode(), row["error"])
            for row in rows
        }

    async def approvals(self, execution_id: str) -> dict[int, Approval]:
        """Return the newest approval of each task that has one, by the task's index."""
        async with self._database.read() as connection:
            return await _approvals(connection, execution_id)

    async def prune_chunks(self, execution_id: str, call_id: str, first: int) -> None:
        """Remove the chunks of a model's answer, all of which come after a sequence."""
        async with self._database.write() as connection:
            await connection.execute(
                delete(execution_events).where(
                    execution_events.c.execution_id == execution_id,
                    execution_events.c.sequence > first,
                    execution_events.c.kind == CHUNK,
                    execution_events.c.call_id == call_id,
                )
            )

    async def grant_revoked(self, execution_id: str) -> None:
        """Note that the grant of an ended execution is revoked."""
        async with self._database.write() as connection:
            await ExecutionRepository(connection).grant_revoked(execution_id)


async def _spec(connection: AsyncConnection, execution: Execution) -> CrewSpec:
    document = await connection.execute(
        select(crew_revisions.c.document).where(
            crew_revisions.c.crew_id == execution.crew_id, crew_revisions.c.revision == execution.crew_revision
        )
    )
    return from_document(CrewSpec, document.scalar_one())


async def _approvals(connection: AsyncConnection, execution_id: str) -> dict[int, Approval]:
    rows = await connection.execute(
        select(approvals).where(approvals.c.execution_id == execution_id).order_by(approvals.c.id)
    )
    return {row.task_index: to_approval(row) for row in rows}
