"""What the host that has the claim on an execution writes, fenced by the epoch of its claim."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.upsert import insert_ignore, insert_or_update
from services.orchestrator.domain.approval import Approval, ApprovalState
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.event import NewEvent
from services.orchestrator.domain.execution import (
    ExecutionError,
    ExecutionState,
    TaskOutput,
    TaskState,
    Usage,
)
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.tables import (
    approvals,
    executions,
    llm_journal,
    task_runs,
    tool_journal,
)


class Fenced(Exception):
    """The execution has another claim, or has ended: this host may not write to it any more."""


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
        last = await EventRepository(self._connection).append(self._execution_id, events)
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
            "response": response,
            "created_at": utc_now(),
        }
        await insert_ignore(self._connection, llm_journal, row)

    async def intend_tool_call(self, index: int, key: str, tool: str, *, idempotent: bool) -> None:
        """Note that a tool is about to run."""
        row = {
            "execution_id": self._execution_id,
            "task_index": index,
            "call_key": key,
            "tool_name": tool,
            "idempotent": idempotent,
            "state": ToolCallState.INTENT,
            "epoch": self._epoch,
            "error": "",
            "intended_at": utc_now(),
        }
        await insert_or_update(
            self._connection,
            tool_journal,
            row,
            key=("execution_id", "task_index", "call_key"),
            update=("state", "epoch", "intended_at"),
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
        """Return whether the execution's cancellation was requested."""
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
        await ExecutionRepository(self._connection).end(self._execution_id, state, error, at)
