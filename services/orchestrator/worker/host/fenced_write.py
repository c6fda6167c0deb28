"""What the host that has the claim on an execution writes, fenced by the epoch of its claim."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.event import NewEvent
from services.orchestrator.domain.execution import (
    ExecutionError,
    ExecutionState,
    ModelWait,
    TaskRun,
    TaskState,
    Usage,
)
from services.orchestrator.domain.question import Question
from services.orchestrator.domain.tool_usage import ToolUsageRecord
from services.orchestrator.repositories.artifact_uploads import ArtifactUploadRepository
from services.orchestrator.repositories.artifacts import ArtifactRepository
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.gateway_calls import GatewayCallRepository
from services.orchestrator.repositories.journal import JournalRepository, ToolCall
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.repositories.task_changes import TaskChanges
from services.orchestrator.repositories.task_runs import TaskRunRepository
from services.orchestrator.repositories.tool_usage import ToolUsageRepository


class Fenced(Exception):
    """The execution has another claim, or has ended: this host may not write to it any more."""


class FencedWrite:
    """A transaction of the host that holds the claim on an execution. Its events are stored already."""

    def __init__(
        self,
        connection: AsyncConnection,
        execution_id: str,
        epoch: int,
        last_sequence: int,
        events: Sequence[NewEvent] = (),
    ) -> None:
        self._execution_id = execution_id
        self._epoch = epoch
        self._executions = ExecutionRepository(connection)
        self._events = EventRepository(connection)
        self._questions = QuestionRepository(connection)
        self._journal = JournalRepository(connection, execution_id)
        self._tool_usage = ToolUsageRepository(connection)
        self._gateway_calls = GatewayCallRepository(connection)
        self._task_runs = TaskRunRepository(connection, execution_id)
        self.tasks = TaskChanges(connection, execution_id)
        """The execution's tasks."""
        self.artifacts = ArtifactRepository(connection, execution_id)
        """The execution's files."""
        self.uploads = ArtifactUploadRepository(connection)
        """What tools have made for it."""
        self.last_sequence = last_sequence
        """The sequence of the transaction's last event."""
        self.in_group_stream = any(event.summary is not None for event in events)
        """Whether one of the transaction's events is in the stream of the execution's group."""

    async def append(self, events: Sequence[NewEvent]) -> None:
        """Store more events."""
        last = await self._events.append(self._execution_id, events)
        self.last_sequence = last or self.last_sequence
        self.in_group_stream |= any(event.summary is not None for event in events)

    async def start_plan(self, index: int, attempt: int, at: datetime) -> None:
        """Note that an attempt at the crew's plan begins; its row is made by the first one."""
        if attempt == 1:
            plan = TaskRun(self._execution_id, index, "", TaskState.RUNNING, attempt=0, usage=Usage(), copied=False)
            await self._task_runs.insert([plan])
        await self.tasks.start(index, attempt, at)

    async def ask(self, question: Question) -> None:
        """Store a question about a task's result, with which the task waits."""
        await self.tasks.wait_for_answer(question.task_index, question.result)
        await self._questions.insert(question)

    async def ask_about_call(self, question: Question) -> None:
        """Store a question about a call of a tool."""
        await self._questions.insert(question)

    async def put_tool_call(self, index: int, key: str, call: ToolCall) -> None:
        """Store a call as this host knows it."""
        await self._journal.put_tool_call(index, key, call, self._epoch)

    async def keep_answer(self, index: int, request_hash: str, occurrence: int, response: bytes) -> None:
        """Store a model's answer for a later attempt at the same task; the first answer to a question counts."""
        await self._journal.keep_answer(index, request_hash, occurrence, response)

    async def intend_tool_call(self, index: int, key: str, tool: str, *, idempotent: bool) -> None:
        """Note that a tool is about to run."""
        await self._journal.intend_tool_call(index, key, tool, epoch=self._epoch, idempotent=idempotent)

    async def end_tool_call(self, index: int, key: str, output: str, error: str) -> None:
        """Store what has come of a tool call."""
        await self._journal.end_tool_call(index, key, output, error)

    async def put_tool_usage(self, calls: Sequence[ToolUsageRecord]) -> None:
        """Store what tool calls, at least one, have used."""
        await self._tool_usage.put(calls)

    async def cancel_requested(self) -> bool:
        """Return whether the execution's cancellation was requested."""
        return await self._executions.cancel_requested(self._execution_id)

    async def open_questions(self) -> bool:
        """Return whether a person still has to answer."""
        return await self._questions.any_open(self._execution_id)

    async def park(self, state: ExecutionState, wake_at: datetime | None = None) -> None:
        """Let the execution rest, until `wake_at` if that is given; tasks that were at work start again then."""
        await self._executions.park(self._execution_id, state, wake_at)
        await self.tasks.park()

    async def keep_model_waits(self, waits: Sequence[ModelWait]) -> None:
        """Note which models the execution waits for."""
        await self._executions.keep_model_waits(self._execution_id, waits)

    async def end(self, state: ExecutionState, error: ExecutionError | None, at: datetime) -> None:
        """End the execution before its time, with its unfinished tasks, open questions and calls that still wait."""
        await self.tasks.store()
        await self._executions.end(self._execution_id, state, error, at)
        await self._gateway_calls.request_cancels(self._execution_id)
