"""What happens to a task, as whoever follows it is told."""

from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime

from coxswain.orchestrator.v1 import execution_pb2
from services.common.db.database import Database
from services.common.errors import NotFound
from services.common.grpc.json_values import from_struct
from services.orchestrator.domain.a2a import TaskState
from services.orchestrator.domain.a2a_errors import task_not_found
from services.orchestrator.domain.event import TERMINAL_KINDS, StoredEvent
from services.orchestrator.domain.execution import TaskOutput
from services.orchestrator.domain.question import Question, QuestionState
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.usecases.a2a.views import ResultArtifact, TaskView, last_result, task_result
from services.orchestrator.usecases.event_feed import EventFeed

_PARKED = {
    execution_pb2.EXECUTION_STATE_WAITING_FOR_ANSWER: TaskState.INPUT_REQUIRED,
    execution_pb2.EXECUTION_STATE_WAITING_FOR_CREDENTIAL: TaskState.AUTH_REQUIRED,
}
_ENDS = {
    "execution_succeeded": TaskState.COMPLETED,
    "execution_failed": TaskState.FAILED,
    "execution_cancelled": TaskState.CANCELED,
}


@dataclass(frozen=True, slots=True)
class TaskChange:
    """One thing that has happened to a task: it has another status, or a result."""

    sequence: int
    """Whoever has this change goes on after this."""
    time: datetime
    state: TaskState | None = None
    task_name: str = ""
    attempt: int = 0
    question: Question | None = None
    error_text: str = ""
    result: ResultArtifact | None = None


class TaskStreams:
    """Follows tasks. What is told comes from stored events alone, so that all who follow a task are told the same."""

    def __init__(self, database: Database, feed: EventFeed) -> None:
        self._database = database
        self._feed = feed

    async def follow(self, view: TaskView, after: int) -> AsyncIterator[TaskChange]:
        """Yield what happens to a task after a sequence, until it ends.

        Raises:
            NotFound: it was deleted.
            Unavailable: this process ends; follow elsewhere.
        """
        execution, spec = view.execution, view.spec
        if execution is None or spec is None or (view.state.terminal and after >= execution.last_sequence):
            return
        asked = {one.id: None for one in view.history if isinstance(one, Question) and one.state is QuestionState.OPEN}
        try:
            async with aclosing(
                self._feed.follow(execution.id, after, execution.last_sequence, chunks=False)
            ) as batches:
                async for batch in batches:
                    for event in batch:
                        async for change in self._changes(view, event, asked):
                            yield change
        except NotFound:
            raise task_not_found() from None

    async def settle(self, view: TaskView) -> None:
        """Wait until something has happened that may have settled a task; see `TaskView.settled`."""
        if view.execution is None or view.settled:
            return
        last = view.execution.last_sequence
        # Whoever reads the task again finds out that it was deleted.
        with suppress(NotFound):
            async with aclosing(self._feed.follow(view.execution.id, last, last, chunks=False)) as batches:
                async for batch in batches:
                    if any(event.kind in TERMINAL_KINDS or _parked(event) is not None for event in batch):
                        return

    async def _changes(self, view: TaskView, event: StoredEvent, asked: dict[str, None]) -> AsyncIterator[TaskChange]:
        body = execution_pb2.ExecutionEvent.FromString(event.payload)
        spec, sequence, time = view.spec, event.sequence, event.time
        match event.kind:
            case "task_started":
                yield TaskChange(sequence, time, TaskState.WORKING, event.task_name, event.attempt)
            case "task_completed" if spec is not None and spec.a2a.all_results:
                index = event.task_index or 0
                if 0 <= index < len(spec.tasks) - 1:
                    result = task_result(spec, index, _output(body.task_completed.output))
                    yield TaskChange(sequence, time, None, event.task_name, event.attempt, result=result)
            case "question_raised":
                asked[body.question_raised.question_id] = None
            case "question_answered":
                asked.pop(body.question_answered.question_id, None)
            case "execution_parked" if (state := _parked(event)) is not None:
                question = await self._question(view, asked) if state is TaskState.INPUT_REQUIRED else None
                yield TaskChange(sequence, time, state, question=question)
            case "execution_succeeded" | "execution_failed" | "execution_cancelled":
                if spec is not None and body.execution_succeeded.HasField("result"):
                    # Whoever has this alone is told of the end when they go on.
                    result = last_result(spec, _output(body.execution_succeeded.result))
                    yield TaskChange(sequence - 1, time, result=result)
                yield TaskChange(sequence, time, _ENDS[event.kind], error_text=_error_text(body))

    async def _question(self, view: TaskView, asked: dict[str, None]) -> Question | None:
        if not asked:
            return None
        async with self._database.read() as connection:
            return await QuestionRepository(connection).get(view.row.group_id, next(iter(asked)))


def _parked(event: StoredEvent) -> TaskState | None:
    if event.kind != "execution_parked":
        return None
    return _PARKED.get(execution_pb2.ExecutionEvent.FromString(event.payload).execution_parked.state)


def _error_text(body: execution_pb2.ExecutionEvent) -> str:
    error = body.execution_failed.error
    return f"{error.reason}: {error.message}" if error.reason else error.message


def _output(message: execution_pb2.TaskOutput) -> TaskOutput:
    structured = from_struct("structured", message.structured) if message.HasField("structured") else None
    return TaskOutput(message.text, structured, message.agent_role)
