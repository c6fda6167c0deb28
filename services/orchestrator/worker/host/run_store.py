"""What worker hosts read and write. Every write of a run is fenced by the epoch its host has claimed."""

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import delete, exists, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.domain.approval import Approval, ApprovalState
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.document import from_document, to_document
from services.orchestrator.domain.event import CHUNK, NewEvent
from services.orchestrator.domain.execution import (
    Execution,
    ExecutionError,
    ExecutionState,
    TaskOutput,
    TaskRun,
    TaskState,
    Usage,
)
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.events import new_event
from services.orchestrator.repositories.approvals import to_approval
from services.orchestrator.repositories.events import SqlEvents
from services.orchestrator.repositories.executions import SqlExecutions, to_execution
from services.orchestrator.tables import (
    approvals,
    crew_revisions,
    execution_events,
    executions,
    llm_journal,
    task_runs,
    tool_journal,
)

_CLAIMABLE = [ExecutionState.QUEUED, ExecutionState.RUNNING]


class Fenced(Exception):
    """The execution has another claim, or has ended: this host may not write to it any more."""


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
    answers: dict[int, Approval]
    """The newest approval of each task that has one, by the task's index."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What the journal knows of a tool call."""

    state: ToolCallState
    output: str
    error: str


class FencedWrite:
    """A transaction of the host that holds the claim on an execution. Its events are stored already."""

    def __init__(self, connection: AsyncConnection, execution_id: str, epoch: int, last_sequence: int) -> None:
        self._connection = connection
        self._execution_id = execution_id
        self._epoch = epoch
        self.last_sequence = last_sequence
        """The sequence of the transaction's last event."""

    async def append(self, events: Sequence[NewEvent]) -> None:
        """Store more events."""
        last = await SqlEvents(self._connection).append(self._execution_id, events)
        self.last_sequence = last or self.last_sequence

    async def start_plan(self, index: int, attempt: int, at: datetime) -> None:
        """Note that an attempt at the crew's plan begins; its row is made by the first one."""
        if attempt == 1:
            nothing = {"llm_calls": 0, "input_tokens": 0, "output_tokens": 0, "cost": 0.0}
            await self._connection.execute(
                insert(task_runs).values(
                    execution_id=self._execution_id,
                    task_index=index,
                    name="",
                    state=TaskState.RUNNING,
                    attempt=0,
                    copied=False,
                    **nothing,
                )
            )
        await self.start_task(index, attempt, at)

    async def start_task(self, index: int, attempt: int, at: datetime) -> None:
        """Note that an attempt at a task begins."""
        await self._task(index, state=TaskState.RUNNING, attempt=attempt, started_at=at, ended_at=None, error=None)

    async def finish_task(self, index: int, output: TaskOutput, at: datetime) -> None:
        """Store a task's result."""
        await self._task(index, state=TaskState.SUCCEEDED, output=to_document(output), ended_at=at)

    async def fail_task(self, index: int, error: ExecutionError, at: datetime) -> None:
        """Store why a task failed."""
        await self._task(index, state=TaskState.FAILED, error=to_document(error), ended_at=at)

    async def ask_for_approval(self, approval: Approval) -> None:
        """Store a result that a person has to approve first."""
        await self._task(approval.task_index, state=TaskState.WAITING_FOR_APPROVAL, output=to_document(approval.output))
        await self._connection.execute(
            insert(approvals).values(
                id=approval.id,
                execution_id=self._execution_id,
                group_id=approval.group_id,
                task_index=approval.task_index,
                task_name=approval.task_name,
                attempt=approval.attempt,
                state=approval.state,
                output=to_document(approval.output),
                feedback="",
                answered_by="",
                requested_at=approval.requested_at,
            )
        )

    async def _task(self, index: int, **values: object) -> None:
        await self._connection.execute(
            update(task_runs)
            .where(task_runs.c.execution_id == self._execution_id, task_runs.c.task_index == index)
            .values(**values)
        )

    async def use(self, index: int, usage: Usage) -> None:
        """Add what a model call has used to its task and its execution."""
        for table, row in (
            (executions, executions.c.id == self._execution_id),
            (task_runs, (task_runs.c.execution_id == self._execution_id) & (task_runs.c.task_index == index)),
        ):
            await self._connection.execute(
                update(table)
                .where(row)
                .values(
                    llm_calls=table.c.llm_calls + usage.llm_calls,
                    input_tokens=table.c.input_tokens + usage.input_tokens,
                    output_tokens=table.c.output_tokens + usage.output_tokens,
                    cost=table.c.cost + usage.cost,
                )
            )

    async def keep_answer(self, index: int, request_hash: str, occurrence: int, response: bytes) -> None:
        """Store a model's answer for a later attempt at the same task; the first answer to a question counts."""
        row = {
            "execution_id": self._execution_id,
            "task_index": index,
            "request_hash": request_hash,
            "occurrence": occurrence,
        }
        known = exists().where(*(llm_journal.c[name] == value for name, value in row.items()))
        values = row | {"response": response, "created_at": utc_now()}
        columns = [literal(value, llm_journal.c[name].type) for name, value in values.items()]
        await self._connection.execute(insert(llm_journal).from_select(list(values), select(*columns).where(~known)))

    async def intend_tool_call(self, index: int, key: str, tool: str, *, idempotent: bool) -> None:
        """Note that a tool is about to run."""
        row = (tool_journal.c.execution_id == self._execution_id) & (tool_journal.c.task_index == index)
        again = await self._connection.execute(
            update(tool_journal)
            .where(row, tool_journal.c.call_key == key)
            .values(epoch=self._epoch, intended_at=utc_now(), state=ToolCallState.INTENT)
        )
        if again.rowcount:
            return
        await self._connection.execute(
            insert(tool_journal).values(
                execution_id=self._execution_id,
                task_index=index,
                call_key=key,
                tool_name=tool,
                idempotent=idempotent,
                state=ToolCallState.INTENT,
                epoch=self._epoch,
                error="",
                intended_at=utc_now(),
            )
        )

    async def end_tool_call(self, index: int, key: str, output: str, error: str) -> None:
        """Store what has come of a tool call."""
        await self._connection.execute(
            update(tool_journal)
            .where(
                tool_journal.c.execution_id == self._execution_id,
                tool_journal.c.task_index == index,
                tool_journal.c.call_key == key,
            )
            .values(
                state=ToolCallState.FAILED if error else ToolCallState.COMPLETED,
                result=output.encode(errors="replace"),
                error=error,
                resulted_at=utc_now(),
            )
        )

    async def cancel_requested(self) -> bool:
        """Return whether the execution's end was asked for."""
        found = await self._connection.execute(
            select(executions.c.cancel_requested_at).where(executions.c.id == self._execution_id)
        )
        return found.scalar_one() is not None

    async def open_approvals(self) -> bool:
        """Return whether a person still has to answer."""
        found = await self._connection.execute(
            select(
                exists().where(
                    approvals.c.execution_id == self._execution_id, approvals.c.state == ApprovalState.PENDING
                )
            )
        )
        return bool(found.scalar_one())

    async def park(self, state: ExecutionState) -> None:
        """Let the execution rest; tasks that were at work start again when it is woken."""
        await self._connection.execute(
            update(executions).where(executions.c.id == self._execution_id).values(state=state)
        )
        await self._connection.execute(
            update(task_runs)
            .where(task_runs.c.execution_id == self._execution_id, task_runs.c.state == TaskState.RUNNING)
            .values(state=TaskState.PENDING)
        )

    async def succeed(self, result: TaskOutput | None, at: datetime) -> None:
        """End the execution, all of whose tasks are done, with its result."""
        await self._connection.execute(
            update(executions)
            .where(executions.c.id == self._execution_id)
            .values(
                state=ExecutionState.SUCCEEDED,
                result=None if result is None else to_document(result),
                ended_at=at,
                ready=False,
            )
        )

    async def end(self, state: ExecutionState, error: ExecutionError | None, at: datetime) -> None:
        """End the execution before its time, with its unfinished tasks and open approvals."""
        await SqlExecutions(self._connection).end(self._execution_id, state, error, at)


class RunStore:
    """Rows as worker hosts use them. Every method raises Unavailable while the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
        """Return those executions whose end was asked for."""
        rows = await self._database.fetch(
            select(executions.c.id).where(
                executions.c.id.in_(execution_ids), executions.c.cancel_requested_at.is_not(None)
            )
        )
        return {row["id"] for row in rows}

    async def claim(self, execution_id: str, generation: int) -> Claim | None:
        """Take an execution: from now on no other host's write to it counts. None when there is nothing to take."""
        async with self._database.write() as connection:
            execution = await SqlExecutions(connection).lock(execution_id)
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
            last = await SqlEvents(connection).append(execution_id, [new_event(started)])
            tasks = tuple(await SqlExecutions(connection).task_runs(execution_id))
            asked = any(task.attempt for task in tasks)
            return Claim(
                execution=replace(taken, last_sequence=last or taken.last_sequence),
                spec=await _spec(connection, taken),
                tasks=tasks,
                answers=await _answers(connection, execution_id) if asked else {},
            )

    @contextlib.asynccontextmanager
    async def fenced(
        self, execution_id: str, epoch: int, events: Sequence[NewEvent] = ()
    ) -> AsyncIterator[FencedWrite]:
        """Yield a transaction that stores events and whatever else is done within, or nothing at all.

        Raises:
            Fenced: the claim is not the newest one, or the execution has ended.
        """
        async with self._database.write() as connection:
            last = await SqlEvents(connection).append(execution_id, events, epoch=epoch)
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
        """Let an execution go on that a claim has parked for its credential; return whether it still was."""
        async with self._database.write() as connection:
            work = SqlExecutions(connection)
            execution = await work.lock(execution_id)
            parked = (
                execution is not None
                and execution.epoch == epoch
                and execution.state is ExecutionState.WAITING_FOR_CREDENTIAL
            )
            if parked:
                await work.wake(execution_id)
            return parked

    async def answers_kept(self, execution_id: str, index: int) -> dict[tuple[str, int], bytes]:
        """Return the model answers earlier attempts at a task have got, by request hash and occurrence."""
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

    async def answers(self, execution_id: str) -> dict[int, Approval]:
        """Return the newest approval of each task that has one, by the task's index."""
        async with self._database.read() as connection:
            return await _answers(connection, execution_id)

    async def prune_chunks(self, execution_id: str, call_id: str, first: int) -> None:
        """Remove the pieces of a model's answer, all of which come after a sequence."""
        async with self._database.write() as connection:
            await connection.execute(
                delete(execution_events).where(
                    execution_events.c.execution_id == execution_id,
                    execution_events.c.sequence > first,
                    execution_events.c.kind == CHUNK,
                    execution_events.c.call_id == call_id,
                )
            )

    async def grant_closed(self, execution_id: str) -> None:
        """Note that the grant of an ended execution is revoked."""
        async with self._database.write() as connection:
            await SqlExecutions(connection).grant_closed(execution_id)


async def _spec(connection: AsyncConnection, execution: Execution) -> CrewSpec:
    document = await connection.execute(
        select(crew_revisions.c.document).where(
            crew_revisions.c.crew_id == execution.crew_id, crew_revisions.c.revision == execution.crew_revision
        )
    )
    return from_document(CrewSpec, document.scalar_one())


async def _answers(connection: AsyncConnection, execution_id: str) -> dict[int, Approval]:
    rows = await connection.execute(
        select(approvals).where(approvals.c.execution_id == execution_id).order_by(approvals.c.id)
    )
    return {row.task_index: to_approval(row) for row in rows}
