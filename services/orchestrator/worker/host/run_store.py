"""What worker hosts read, and what they write outside of a run: claims, and what is queued."""

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.domain.approval import Approval
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.event import NewEvent
from services.orchestrator.domain.execution import Execution, ExecutionState, TaskRun
from services.orchestrator.events import new_event
from services.orchestrator.repositories.approvals import ApprovalRepository
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.events import EventReader, EventRepository
from services.orchestrator.repositories.executions import (
    CLAIMABLE_STATES,
    ExecutionRepository,
    Ready,
    read_at_work,
    read_cancellations,
    read_ready,
)
from services.orchestrator.repositories.journal import ToolCall, read_answers, read_tool_calls
from services.orchestrator.repositories.leases import LeaseRepository
from services.orchestrator.repositories.task_runs import TaskRunRepository
from services.orchestrator.worker.host.fenced_write import Fenced, FencedWrite


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
        return await read_ready(self._database, limit)

    async def handed_over(self, segment: Ready) -> None:
        """Note that the queue has a segment."""
        async with self._database.write() as connection:
            await ExecutionRepository(connection).handed_over(segment.execution_id, segment.generation)

    async def at_work(self, after_id: str, limit: int) -> list[tuple[str, int]]:
        """Return id and generation of executions whose segments the queue should have, in the order of ids."""
        return await read_at_work(self._database, after_id, limit)

    async def hand_over_again(self, execution_id: str, generation: int) -> bool:
        """Make an execution ready for its next segment, unless it has moved on since; return whether it was."""
        async with self._database.write() as connection:
            return await ExecutionRepository(connection).hand_over_again(execution_id, generation)

    async def cancellations(self, execution_ids: Collection[str]) -> set[str]:
        """Return those executions whose cancellation was requested."""
        return await read_cancellations(self._database, execution_ids)

    async def claim(self, execution_id: str, generation: int) -> Claim | None:
        """Take an execution: from now on no other host's write to it counts. None when there is nothing to take."""
        async with self._database.write() as connection:
            executions = ExecutionRepository(connection)
            execution = await executions.lock(execution_id)
            if execution is None or execution.generation != generation or execution.state not in CLAIMABLE_STATES:
                return None
            taken = await executions.claim(execution, utc_now())
            started = execution_pb2.ExecutionStarted(
                claim=taken.epoch, takeover=execution.state is ExecutionState.RUNNING
            )
            last = await EventRepository(connection).append(execution_id, [new_event(started)])
            tasks = tuple(await TaskRunRepository(connection, execution_id).list())
            asked = any(task.attempt for task in tasks)
            return Claim(
                execution=replace(taken, last_sequence=last or taken.last_sequence),
                spec=await CrewRepository(connection).spec(taken.crew_id, taken.crew_revision),
                tasks=tasks,
                approvals=await ApprovalRepository(connection).newest(execution_id) if asked else {},
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
            yield FencedWrite(connection, execution_id, epoch, last, events)

    async def is_stored(self, execution_id: str, after_sequence: int, event: NewEvent) -> bool:
        """Return whether an event is among those after a sequence: whether a commit that was not confirmed was made."""
        return await EventReader(self._database).has(execution_id, after_sequence, event)

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
        return await read_answers(self._database, execution_id, index)

    async def tool_calls(self, execution_id: str, index: int) -> dict[str, ToolCall]:
        """Return what is known of the tool calls of earlier attempts at a task, by their keys."""
        return await read_tool_calls(self._database, execution_id, index)

    async def approvals(self, execution_id: str) -> dict[int, Approval]:
        """Return the newest approval of each task that has one, by the task's index."""
        async with self._database.read() as connection:
            return await ApprovalRepository(connection).newest(execution_id)

    async def prune_chunks(self, execution_id: str, call_id: str, first: int) -> None:
        """Remove the chunks of a model's answer, all of which come after a sequence."""
        async with self._database.write() as connection:
            await EventRepository(connection).prune_chunks(execution_id, call_id, first)

    async def grant_revoked(self, execution_id: str) -> None:
        """Note that the grant of an ended execution is revoked."""
        async with self._database.write() as connection:
            await ExecutionRepository(connection).grant_revoked(execution_id)
