"""The progress of an execution, computed from its events alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from coxswain.models.v1.inference_pb2 import FinishReason
from coxswain.orchestrator.v1.execution_pb2 import ExecutionError, ExecutionEvent, ExecutionState, TaskReuse
from coxswain.orchestrator.v1.question_state_pb2 import QuestionState

MAX_SHOWN_TEXT = 4000
"""Characters of a running answer that are kept."""

_NEEDS_CREDENTIAL = ExecutionState.EXECUTION_STATE_WAITING_FOR_CREDENTIAL
_FINAL_STATES = {
    "execution_succeeded": "succeeded",
    "execution_failed": "failed",
    "execution_cancelled": "cancelled",
}


@dataclass(slots=True)
class TaskProgress:
    """The current state of one task."""

    name: str
    state: str = "pending"
    """pending, running, waiting, succeeded, failed or cancelled."""
    agent: str = ""
    attempt: int = 0
    started: datetime | None = None
    ended: datetime | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    tool: str = ""
    """The tool that is running now; empty between calls."""
    error: str = ""


@dataclass(slots=True)
class Progress:
    """The state of an execution after the events applied so far. Times are the server's."""

    crew: str = ""
    state: str = "queued"
    tasks: dict[str, TaskProgress] = field(default_factory=dict)
    text: str = ""
    """The end of the current answer of a model, or of the last one."""
    text_task: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    latest: datetime | None = None
    sequence: int = 0
    cost: float = 0.0
    questions: list[str] = field(default_factory=list)
    """Ids of the questions that wait for an answer, oldest first."""
    _call: str = ""

    @property
    def credential_needed(self) -> bool:
        """Whether the execution waits for a fresh credential."""
        return self.state == state_words(_NEEDS_CREDENTIAL)

    @property
    def input_tokens(self) -> int:
        return sum(task.input_tokens for task in self.tasks.values())

    @property
    def output_tokens(self) -> int:
        return sum(task.output_tokens for task in self.tasks.values())

    def apply(self, event: ExecutionEvent) -> None:
        """Apply the next event; events must come in order."""
        self.sequence = event.sequence
        self.latest = event.time.ToDatetime(tzinfo=UTC) if event.HasField("time") else self.latest
        what = event.WhichOneof("event") or ""
        if what in _FINAL_STATES:
            self._end(_FINAL_STATES[what])
        elif what.startswith("execution_"):
            self._move(event, what)
        elif event.task_name:
            self._task(event, what)

    def _end(self, state: str) -> None:
        self.state = state
        self.ended = self.latest
        self.questions.clear()
        for task in self.tasks.values():
            task.tool = ""
            if task.state in {"pending", "running", "waiting"}:
                task.state, task.ended = "cancelled", self.latest

    def _move(self, event: ExecutionEvent, what: str) -> None:
        if what == "execution_queued":
            self.crew = event.execution_queued.crew_name
            self.tasks = {name: TaskProgress(name) for name in event.execution_queued.task_names}
        elif what == "execution_started":
            self.state = "running"
            self.started = self.started or self.latest
        elif what == "execution_parked":
            self.state = state_words(event.execution_parked.state)

    def _task(self, event: ExecutionEvent, what: str) -> None:
        task = self.tasks.setdefault(event.task_name, TaskProgress(event.task_name))
        task.attempt = event.attempt
        match what:
            case "task_started":
                task.state, task.agent, task.error = "running", event.task_started.agent_role, ""
                task.started, task.ended = self.latest, None
            case "task_completed":
                task.state, task.ended, task.tool = "succeeded", self.latest, ""
            case "task_failed":
                task.state, task.ended, task.error = "failed", self.latest, event.task_failed.error.message
            case "task_skipped":
                task.state, task.ended = "skipped", self.latest
            case "llm_call_started" | "llm_chunk" | "llm_call_completed" | "llm_call_failed":
                self._llm(task, event, what)
            case "tool_call_started":
                task.tool = event.tool_call_started.tool_name
            case "tool_call_completed" | "tool_call_failed" | "tool_outcome_unknown":
                task.tool = ""
            case "question_raised":
                task.state = "waiting"
                self.questions.append(event.question_raised.question_id)
            case "question_answered":
                task.state = "running"
                if event.question_answered.question_id in self.questions:
                    self.questions.remove(event.question_answered.question_id)

    def _llm(self, task: TaskProgress, event: ExecutionEvent, what: str) -> None:
        if what == "llm_call_started":
            self._begin(event.llm_call_started.call_id, task.name)
        elif what == "llm_chunk":
            if event.llm_chunk.call_id != self._call:
                self._begin(event.llm_chunk.call_id, task.name)
            self.text = (self.text + event.llm_chunk.text)[-MAX_SHOWN_TEXT:]
        elif what == "llm_call_completed":
            done = event.llm_call_completed
            self._begin(done.call_id, task.name)
            self.text = done.text[-MAX_SHOWN_TEXT:]
            task.calls += 1
            task.input_tokens += done.input_tokens
            task.output_tokens += done.output_tokens
            self.cost += done.cost

    def _begin(self, call_id: str, task_name: str) -> None:
        self._call, self.text_task, self.text = call_id, task_name, ""


def describe(event: ExecutionEvent) -> str:
    """The event in one line for people; empty for chunks of answers."""
    what = event.WhichOneof("event") or "an event this client does not know"
    if what == "llm_chunk":
        return ""
    line = _LINES[what](event) if what in _LINES else what.replace("_", " ")
    return f"{event.task_name}: {line}" if event.task_name else line


def state_words(state: ExecutionState.ValueType) -> str:
    """A state in lower-case words."""
    return ExecutionState.Name(state).removeprefix("EXECUTION_STATE_").lower().replace("_", " ")


def _error(error: ExecutionError) -> str:
    return f"failed: {error.message} ({error.reason})"


def _queued(event: ExecutionEvent) -> str:
    queued = event.execution_queued
    return f"queued: {queued.crew_name}, tasks {', '.join(queued.task_names)}"


def _continued(event: ExecutionEvent) -> str:
    tasks = event.execution_continued.tasks
    copied = [task.task_name for task in tasks if task.reuse == TaskReuse.TASK_REUSE_COPIED]
    return f"continues {event.execution_continued.execution_id}, copied: {', '.join(copied) or 'no task'}"


def _parked(event: ExecutionEvent) -> str:
    state = event.execution_parked.state
    command = f": {renewal(event.execution_id)}" if state == _NEEDS_CREDENTIAL else ""
    return state_words(state) + command


def renewal(execution_id: str) -> str:
    """The command to type when an execution waits for a credential."""
    return f"coxswain --token FRESH_TOKEN renew {execution_id}"


def answering(question_id: str) -> str:
    """The command to type when an execution waits for an answer."""
    return f"coxswain answer {question_id}"


def _question_answered(event: ExecutionEvent) -> str:
    answered = event.question_answered
    state = QuestionState.Name(answered.state).removeprefix("QUESTION_STATE_").lower()
    by = "" if answered.subject else " at its deadline"
    edited = ", edited" if answered.edited else ""
    reason = f": {answered.decline_reason}" if answered.decline_reason else ""
    return f"{state}{by}{edited}{reason}"


def _task_started(event: ExecutionEvent) -> str:
    again = f", attempt {event.attempt}" if event.attempt > 1 else ""
    return f"started by {event.task_started.agent_role}{again}"


def _completed(event: ExecutionEvent) -> str:
    # The events of a whole group come without results.
    output = event.task_completed.output
    return f"done, {len(output.text):,} characters" if event.task_completed.HasField("output") else "done"


def _answered(event: ExecutionEvent) -> str:
    done = event.llm_call_completed
    journal = " (from the journal)" if done.replayed else ""
    cut = ", cut off" if done.finish_reason == FinishReason.FINISH_REASON_LENGTH else ""
    return f"answered: {done.input_tokens:,} tokens in, {done.output_tokens:,} out{cut}{journal}"


def _waiting(event: ExecutionEvent) -> str:
    waits = event.llm_call_waiting
    again = waits.retry_time.ToDatetime(tzinfo=UTC)
    return f"waits for {waits.model} until {again:%H:%M:%S} UTC: {waits.message}"


_LINES: dict[str, Callable[[ExecutionEvent], str]] = {
    "execution_queued": _queued,
    "execution_continued": _continued,
    "execution_started": lambda e: "taken over by another worker" if e.execution_started.takeover else "started",
    "execution_failed": lambda e: _error(e.execution_failed.error),
    "execution_succeeded": lambda _: "succeeded",
    "execution_cancelled": lambda _: "cancelled",
    "execution_parked": _parked,
    "task_started": _task_started,
    "task_completed": _completed,
    "task_failed": lambda e: _error(e.task_failed.error),
    "task_skipped": lambda e: f"skipped: {e.task_skipped.condition} is false",
    "guardrail_refused": lambda e: f"result refused: {e.guardrail_refused.message}",
    "llm_call_started": lambda e: f"asks {e.llm_call_started.model}",
    "llm_call_completed": _answered,
    "llm_call_failed": lambda e: f"model call failed: {e.llm_call_failed.message}",
    "llm_call_waiting": _waiting,
    "tool_call_started": lambda e: f"tool {e.tool_call_started.tool_name} {e.tool_call_started.arguments_json}",
    "tool_call_completed": lambda e: f"tool {e.tool_call_completed.tool_name} answered",
    "tool_call_progress": lambda e: f"tool {e.tool_call_progress.tool_name}: {e.tool_call_progress.text}",
    "tool_outcome_unknown": lambda e: (
        f"whether tool {e.tool_outcome_unknown.tool_name} has done its work is not known: "
        f"{e.tool_outcome_unknown.message}"
    ),
    "tool_call_failed": lambda e: f"tool {e.tool_call_failed.tool_name} failed: {e.tool_call_failed.message}",
    "tool_changed": lambda e: f"tool {e.tool_changed.tool_name} is not what the crew was stored with",
    "artifact_stored": lambda e: f"stored {e.artifact_stored.name}, {e.artifact_stored.size_bytes:,} bytes",
    "question_raised": lambda e: f"{e.question_raised.text} {answering(e.question_raised.question_id)}",
    "question_answered": _question_answered,
    "schedule_started_nothing": lambda e: (
        f'schedule "{e.schedule_started_nothing.schedule_name}" started nothing: '
        f"{e.schedule_started_nothing.error.message}"
    ),
}
