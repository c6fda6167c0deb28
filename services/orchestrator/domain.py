"""What the orchestrator is about: crews, their executions, and what executions leave behind.

Documents (crews, outputs, errors) are stored as JSON through `to_document` and `from_document`. Fields may be added
with a default, never renamed: a row written by one release has to be read by the next and the previous one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import TypeAdapter


class Process(StrEnum):
    """How a crew's tasks are worked off."""

    SEQUENTIAL = "SEQUENTIAL"
    HIERARCHICAL = "HIERARCHICAL"


class ExecutionState(StrEnum):
    """Where an execution stands; the names are those of `coxswain.orchestrator.v1.ExecutionState`."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    WAITING_FOR_APPROVAL = "WAITING_FOR_APPROVAL"
    WAITING_FOR_CREDENTIAL = "WAITING_FOR_CREDENTIAL"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether the execution has ended: its row changes no more."""
        return self in TERMINAL_STATES

    @property
    def parked(self) -> bool:
        """Whether the execution waits for a person, with nothing running."""
        return self in PARKED_STATES


TERMINAL_STATES = frozenset({ExecutionState.SUCCEEDED, ExecutionState.FAILED, ExecutionState.CANCELLED})
PARKED_STATES = frozenset({ExecutionState.WAITING_FOR_APPROVAL, ExecutionState.WAITING_FOR_CREDENTIAL})


class TaskState(StrEnum):
    """Where a task of an execution stands; the names are those of `coxswain.orchestrator.v1.TaskState`."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING_FOR_APPROVAL = "WAITING_FOR_APPROVAL"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether the task has ended."""
        return self in {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}


class ApprovalState(StrEnum):
    """Where an approval stands."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REFUSED = "REFUSED"
    VOID = "VOID"
    """Its execution ended before an answer came."""


class ToolCallState(StrEnum):
    """What the journal knows of a tool call."""

    INTENT = "INTENT"
    """It was about to run; whether it did is not known."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class ExecutionIdentity(StrEnum):
    """Whom an execution acts as; the names are those of `coxswain.auth.v1.ExecutionIdentity`."""

    UNSPECIFIED = "UNSPECIFIED"
    USER = "USER"
    GROUP = "GROUP"


class OnCredentialExpiry(StrEnum):
    """What happens when the user's token expires; the names are those of `coxswain.auth.v1.OnCredentialExpiry`."""

    PARK = "PARK"
    FAIL = "FAIL"
    USE_GROUP_IDENTITY = "USE_GROUP_IDENTITY"


# ---- crews


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool and its settings."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KnowledgeSpec:
    """A text agents can look things up in."""

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One agent. Empty model names mean the crew's; durations are in seconds."""

    name: str
    role: str
    goal: str
    backstory: str = ""
    model: str = ""
    function_calling_model: str = ""
    tools: tuple[ToolSpec, ...] = ()
    allow_delegation: bool = False
    max_iterations: int = 25
    max_calls_per_minute: int | None = None
    max_execution_time: float | None = None
    max_retries: int = 2
    temperature: float | None = None
    knowledge: tuple[KnowledgeSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task. `context` None: all earlier results for a synchronous task, none for an asynchronous one."""

    name: str
    description: str
    expected_output: str
    agent: str = ""
    context: tuple[str, ...] | None = None
    tools: tuple[ToolSpec, ...] = ()
    async_execution: bool = False
    output_schema: dict[str, Any] | None = None
    guardrails: tuple[str, ...] = ()
    guardrail_max_retries: int = 3
    human_approval: bool = False
    markdown: bool = False


@dataclass(frozen=True, slots=True)
class MemorySpec:
    """What a crew remembers."""

    enabled: bool = False
    embedding_model: str = ""
    run_name: str = ""
    analysis: bool = False


@dataclass(frozen=True, slots=True)
class CrewSpec:
    """The whole of a crew. Agents and tasks refer to each other by name; an empty model is the default one."""

    name: str
    agents: tuple[AgentSpec, ...]
    tasks: tuple[TaskSpec, ...]
    description: str = ""
    process: Process = Process.SEQUENTIAL
    model: str = ""
    manager_model: str = ""
    manager_agent: str = ""
    planning: bool = False
    planning_model: str = ""
    memory: MemorySpec = field(default_factory=MemorySpec)
    knowledge: tuple[KnowledgeSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Crew:
    """A stored crew at one revision."""

    id: str
    group_id: str
    revision: int
    spec: CrewSpec
    created_at: datetime
    updated_at: datetime
    """When this revision was made."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a crew or a request."""

    field: str
    """Path from the request's root. Example: `spec.tasks[1].agent`."""
    description: str


# ---- executions


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """The result of a task."""

    text: str
    structured: dict[str, Any] | None = None
    agent_role: str = ""


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """Why an execution or a task failed; `reason` is an ErrorReason without its prefix."""

    reason: str
    message: str
    task_name: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What model calls have used; cost in US dollars as far as prices are known."""

    llm_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Start:
    """What to run, and how."""

    crew_id: str
    crew_revision: int
    """0 means the newest."""
    inputs: Mapping[str, Any]
    labels: Mapping[str, str]
    model: str
    priority: int
    timeout: float | None
    """Seconds; None means no limit."""
    identity: ExecutionIdentity
    on_credential_expiry: OnCredentialExpiry


@dataclass(frozen=True, slots=True)
class Schedule:
    """Executions by the clock."""

    id: str
    group_id: str
    subject: str
    """Who created or last changed it, and whom it acts for."""
    name: str
    cron: str
    time_zone: str
    """Empty means UTC."""
    start: Start
    paused: bool
    delegate_id: str
    """What its grant stands in auth's books for; a new one with each change."""
    grant_id: str
    revision: int
    """Counts the changes: what was read before one must not fire after it."""
    next_fire_at: datetime | None
    """None while it is paused."""
    created_at: datetime
    updated_at: datetime
    last_fire_at: datetime | None = None
    last_execution_id: str = ""
    last_error: ExecutionError | None = None
    """Why it started nothing when it fired last."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a crew, as its row tells."""

    id: str
    group_id: str
    subject: str
    crew_id: str
    crew_revision: int
    crew_name: str
    state: ExecutionState
    inputs: Mapping[str, Any]
    labels: Mapping[str, str]
    model: str
    """Used instead of every model of the crew, unless empty."""
    priority: int
    """Lower runs first among the group's waiting executions."""
    identity: ExecutionIdentity
    on_credential_expiry: OnCredentialExpiry
    grant_id: str
    resumed_from: str
    timeout: float | None
    """Seconds from `created_at`."""
    deadline_at: datetime | None
    epoch: int
    """Claims so far; guards every write of a worker."""
    generation: int
    """Counts the segments: 1, and one more each time a parked execution is woken."""
    ready: bool
    """Whether the present generation still waits to be handed to the engine."""
    last_sequence: int
    usage: Usage
    created_at: datetime
    schedule_id: str = ""
    """The schedule that started it, if one did."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    result: TaskOutput | None = None
    error: ExecutionError | None = None


@dataclass(frozen=True, slots=True)
class TaskRun:
    """A task of an execution."""

    execution_id: str
    task_index: int
    name: str
    state: TaskState
    attempt: int
    """How often it was started."""
    usage: Usage
    copied: bool
    """Whether its output was taken over from the execution this one continues."""
    output: TaskOutput | None = None
    error: ExecutionError | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


CHUNK = "llm_chunk"
"""The kind of events that may be pruned once their call's full text is stored."""
TERMINAL_KINDS = frozenset({"execution_succeeded", "execution_failed", "execution_cancelled"})
"""The kinds of an execution's last event."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be stored: `payload` is a serialized ExecutionEvent that holds nothing but its `event`."""

    kind: str
    """The name of the field set in the oneof. Example: `llm_chunk`."""
    payload: bytes
    task_index: int | None = None
    task_name: str = ""
    attempt: int = 0
    call_id: str = ""
    """For model calls: what their chunks are pruned by."""
    time: datetime | None = None
    """When it happened; None means when it is stored."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its place."""

    sequence: int
    time: datetime
    kind: str
    payload: bytes
    task_index: int | None
    task_name: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's say over a result."""

    id: str
    execution_id: str
    group_id: str
    task_index: int
    task_name: str
    attempt: int
    state: ApprovalState
    output: TaskOutput
    requested_at: datetime
    feedback: str = ""
    answered_by: str = ""
    answered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool crews can use, as the catalogue describes it."""

    name: str
    description: str
    config_schema: dict[str, Any]
    """JSON schema of the settings a crew may give it."""
    arguments_schema: dict[str, Any]
    """JSON schema of the arguments a model gives it."""
    idempotent: bool
    """Whether calling it twice does no harm."""


T = TypeVar("T")


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    # Building one takes milliseconds.
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def to_document(value: Any) -> Any:
    """Return the JSON document of one of this module's dataclasses."""
    return _adapter(type(value)).dump_python(value, mode="json")


def from_document(kind: type[T], document: Any) -> T:
    """Return the dataclass `kind` that `document` stands for; fields it does not know are left out."""
    value: T = _adapter(kind).validate_python(document)
    return value
