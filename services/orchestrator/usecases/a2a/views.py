"""Tasks as their rows, and those of their executions, say they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.a2a import TaskMessage, TaskRow, TaskState
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.execution import Execution, ExecutionState, TaskOutput
from services.orchestrator.domain.execution import TaskState as RunState
from services.orchestrator.domain.question import Question, QuestionState
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.repositories.task_runs import TaskRunRepository
from services.orchestrator.usecases.a2a.files import FileArtifact, read_files
from services.orchestrator.usecases.a2a.inputs import missing_inputs

_QUESTION_BYTES = 1024
_FILE_BYTES = 1024
RESULT = "result"
"""Id of the artifact that holds the last task's result."""
_STATES = {
    ExecutionState.RUNNING: TaskState.WORKING,
    ExecutionState.WAITING_FOR_MODEL: TaskState.WORKING,
    ExecutionState.WAITING_FOR_ANSWER: TaskState.INPUT_REQUIRED,
    ExecutionState.WAITING_FOR_CREDENTIAL: TaskState.AUTH_REQUIRED,
    ExecutionState.SUCCEEDED: TaskState.COMPLETED,
    ExecutionState.FAILED: TaskState.FAILED,
    ExecutionState.CANCELLED: TaskState.CANCELED,
}


@dataclass(frozen=True, slots=True)
class ResultArtifact:
    """The result of a task of the crew."""

    id: str
    name: str
    output: TaskOutput
    markdown: bool


@dataclass(frozen=True, slots=True)
class FollowedTask:
    """What of a task has to be known by who follows it, however long: little, and nothing that was said."""

    row: TaskRow
    spec: CrewSpec
    execution_id: str
    last_sequence: int
    """The newest event that was stored when the task was read."""
    ended: bool


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task with all that is told of it."""

    row: TaskRow
    state: TaskState
    execution: Execution | None = None
    question: Question | None = None
    """What it waits for an answer to."""
    missing: dict[str, str] = field(default_factory=dict)
    """The inputs that it waits for, each with the field of the crew that needs it."""
    results: Sequence[ResultArtifact] = ()
    files: Sequence[FileArtifact] = ()
    """What tools have stored, in the order of the names."""
    more_files: bool = False
    """Whether there are files beside these."""
    history: Sequence[TaskMessage | Question] = ()
    """What was said, oldest first, or the newest of it."""
    spec: CrewSpec | None = None
    resumed_from: str = ""
    """Id of the task that it goes on with, while that is there."""

    @property
    def sequence(self) -> int:
        """The newest event that it shows what has come of."""
        return 0 if self.execution is None else self.execution.last_sequence

    @property
    def followed(self) -> FollowedTask | None:
        """What it is followed by; None where nothing can happen to it as events. It was read with its results."""
        if self.execution is None or self.spec is None:
            return None
        execution = self.execution
        return FollowedTask(self.row, self.spec, execution.id, execution.last_sequence, self.state.terminal)

    @property
    def size(self) -> int:
        """The bytes of what was said and what came of it, roughly."""
        described = sum(_FILE_BYTES + file.told_bytes for file in self.files)
        return described + _bytes_of(self.history, self.results)

    @property
    def settled(self) -> bool:
        """Whether nothing happens before somebody does something."""
        return self.execution is None or self.state.terminal or self.state.interrupted


def state_of(row: TaskRow, execution: Execution | None) -> TaskState:
    """Return where a task stands."""
    if execution is None:
        return row.draft_state or TaskState.CANCELED
    if execution.state is ExecutionState.QUEUED:
        return TaskState.SUBMITTED if execution.started_at is None else TaskState.WORKING
    return _STATES[execution.state]


async def read_views(
    connection: AsyncConnection,
    rows: Sequence[TaskRow],
    *,
    results: bool = True,
    contents: bool = True,
    history: int | None = None,
) -> list[TaskView]:
    """Return tasks with all that is told of them, with or without their artifacts, and the contents of their files.

    `history` is how many of the newest messages are wanted (None: all); no more than twice as many are read.
    """
    tasks = A2ATaskRepository(connection)
    # First: what has happened since is told as events after its sequence.
    executions = await tasks.executions(rows, results=results)
    asked = await QuestionRepository(connection).of_executions(list(executions), history) if executions else []
    messages = await tasks.messages([row.id for row in rows], history)
    resumed = {one.resumed_from for one in executions.values() if one.resumed_from}
    earlier = await tasks.of_executions(resumed) if resumed else {}
    views = []
    specs: dict[tuple[str, int], CrewSpec] = {}
    for row in rows:
        execution = executions.get(row.execution_id or "")
        questions = [question for question in asked if question.execution_id == row.execution_id]
        state = state_of(row, execution)
        waits = state is TaskState.INPUT_REQUIRED
        spec = None
        if results or (execution is None and waits):
            revision = row.crew_id, row.crew_revision
            if revision not in specs:
                specs[revision] = await CrewRepository(connection).spec(*revision)
            spec = specs[revision]
        said = _newest([*messages.get(row.id, ()), *questions], history)
        made = await _results(connection, execution, spec) if results and execution and spec else []
        files: Sequence[FileArtifact] = ()
        more_files = False
        if results and execution:
            used_bytes = _bytes_of(said, made)
            files, more_files = await read_files(connection, execution.id, used_bytes, contents=contents)
        views.append(
            TaskView(
                row=row,
                state=state,
                execution=execution,
                question=next((one for one in questions if waits and one.state is QuestionState.OPEN), None),
                missing=missing_inputs(spec, row.draft_inputs or {}) if spec and execution is None and waits else {},
                results=made,
                files=files,
                more_files=more_files,
                history=said,
                spec=spec,
                resumed_from=earlier.get(execution.resumed_from, "") if execution else "",
            )
        )
    return views


def _bytes_of(said: Sequence[TaskMessage | Question], results: Sequence[ResultArtifact]) -> int:
    messages = sum(len(one.payload) if isinstance(one, TaskMessage) else _QUESTION_BYTES for one in said)
    questioned = sum(len(one.result.text) for one in said if isinstance(one, Question) and one.result)
    return messages + questioned + sum(len(to_json(to_document(result.output))) for result in results)


def _newest(said: Sequence[TaskMessage | Question], count: int | None) -> list[TaskMessage | Question]:
    """Return so many of what was said (None: all), oldest first."""
    ordered = sorted(said, key=lambda one: one.created_at)
    return ordered if count is None else ordered[max(len(ordered) - count, 0) :]


async def _results(connection: AsyncConnection, execution: Execution, spec: CrewSpec) -> list[ResultArtifact]:
    found = []
    if spec.a2a.all_results:
        for run in await TaskRunRepository(connection, execution.id).list(after=-1):
            if run.state is RunState.SUCCEEDED and run.output is not None and run.task_index < len(spec.tasks) - 1:
                found.append(task_result(spec, run.task_index, run.output))
    if execution.state is ExecutionState.SUCCEEDED and execution.result is not None:
        found.append(last_result(spec, execution.result))
    return found


def last_result(spec: CrewSpec, output: TaskOutput) -> ResultArtifact:
    """Return the artifact of the result of a crew."""
    return ResultArtifact(RESULT, spec.tasks[-1].name, output, spec.tasks[-1].markdown)


def task_result(spec: CrewSpec, index: int, output: TaskOutput) -> ResultArtifact:
    """Return the artifact of the result of a task that is not the last one."""
    task = spec.tasks[index]
    return ResultArtifact(task.name, task.name, output, task.markdown)
