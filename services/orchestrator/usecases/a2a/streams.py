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
from services.orchestrator.domain.question import Question
from services.orchestrator.repositories.events import EventReader
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.usecases.a2a.files import FileArtifact, read_stored
from services.orchestrator.usecases.a2a.views import FollowedTask, ResultArtifact, last_result, task_result
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
TELLING_KINDS = frozenset(
    {"execution_started", "task_started", "task_completed", "artifact_stored", "execution_parked", *_ENDS}
)
"""The kinds of the events that may change a task."""


@dataclass(frozen=True, slots=True)
class TaskChange:
    """One thing that has happened to a task: it has another status, or an artifact."""

    sequence: int
    """Whoever has this change goes on after this."""
    time: datetime
    state: TaskState | None = None
    task_name: str = ""
    attempt: int = 0
    question: Question | None = None
    error_text: str = ""
    artifact: ResultArtifact | FileArtifact | None = None


class TaskStreams:
    """Follows tasks. What is told comes from stored events alone, so that all who follow a task are told the same."""

    def __init__(self, database: Database, feed: EventFeed) -> None:
        self._database = database
        self._feed = feed
        self._events = EventReader(database)

    async def follow(self, task: FollowedTask, after: int) -> AsyncIterator[TaskChange]:
        """Yield what happens to a task after a sequence, until it ends.

        Raises:
            NotFound: it was deleted.
            Unavailable: this process ends; follow elsewhere.
        """
        if task.ended and after >= task.last_sequence:
            return
        try:
            async with aclosing(
                self._feed.follow(task.execution_id, after, task.last_sequence, chunks=False)
            ) as batches:
                async for batch in batches:
                    for event in batch:
                        async for change in self.changes(task, event):
                            yield change
        except NotFound:
            raise task_not_found() from None

    async def settle(self, execution_id: str, last: int) -> None:
        """Wait until something has happened after a sequence that may have settled a task; see `TaskView.settled`."""
        # Whoever reads the task again finds out that it was deleted.
        with suppress(NotFound):
            async with aclosing(self._feed.follow(execution_id, last, last, chunks=False)) as batches:
                async for batch in batches:
                    if any(event.kind in TERMINAL_KINDS or _parked(event) is not None for event in batch):
                        return

    async def changes(self, task: FollowedTask, event: StoredEvent) -> AsyncIterator[TaskChange]:
        """Yield what an event of the execution of a task means for it."""
        body = execution_pb2.ExecutionEvent.FromString(event.payload)
        spec, sequence, time = task.spec, event.sequence, event.time
        match event.kind:
            case "execution_started" if body.execution_started.claim > 1:
                # It goes on: after an answer or a credential, or on another host.
                yield TaskChange(sequence, time, TaskState.WORKING)
            case "task_started":
                yield TaskChange(sequence, time, TaskState.WORKING, event.task_name, event.attempt)
            case "task_completed" if spec.a2a.all_results:
                index = event.task_index or 0
                if 0 <= index < len(spec.tasks) - 1:
                    result = task_result(spec, index, _output(body.task_completed.output))
                    yield TaskChange(sequence, time, None, event.task_name, event.attempt, artifact=result)
            case "artifact_stored" if body.artifact_stored.call_id:
                file = await read_stored(self._database, task.row.group_id, task.execution_id, body.artifact_stored)
                yield TaskChange(sequence, time, None, event.task_name, event.attempt, artifact=file)
            case "execution_parked" if (state := _parked(event)) is not None:
                question = await self._question(task, sequence) if state is TaskState.INPUT_REQUIRED else None
                yield TaskChange(sequence, time, state, question=question)
            case "execution_succeeded" | "execution_failed" | "execution_cancelled":
                if body.execution_succeeded.HasField("result"):
                    # Whoever has this alone is told of the end when they go on.
                    result = last_result(spec, _output(body.execution_succeeded.result))
                    yield TaskChange(sequence - 1, time, artifact=result)
                yield TaskChange(sequence, time, _ENDS[event.kind], error_text=_error_text(body))

    async def _question(self, task: FollowedTask, sequence: int) -> Question | None:
        """Return the first of the questions that were open at a sequence, whenever somebody began to follow."""
        asked = set()
        for event in await self._events.of_kinds(task.execution_id, sequence, ("question_raised", "question_answered")):
            body = execution_pb2.ExecutionEvent.FromString(event.payload)
            if event.kind == "question_raised":
                asked.add(body.question_raised.question_id)
            else:
                asked.discard(body.question_answered.question_id)
        if not asked:
            return None
        async with self._database.read() as connection:
            return await QuestionRepository(connection).get(task.row.group_id, min(asked))


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
