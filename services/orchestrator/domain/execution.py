"""Executions and their tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from services.common.resource_key import ResourceKey
from services.orchestrator.domain.limits import ExecutionLimits

EARLIER_WAITING_FOR_ANSWER = "WAITING_FOR_APPROVAL"
"""What the release before writes for the state WAITING_FOR_ANSWER of executions and tasks."""


class ExecutionState(StrEnum):
    """Where an execution stands; the names are those of `coxswain.orchestrator.v1.ExecutionState`."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    WAITING_FOR_ANSWER = "WAITING_FOR_ANSWER"
    WAITING_FOR_CREDENTIAL = "WAITING_FOR_CREDENTIAL"
    WAITING_FOR_MODEL = "WAITING_FOR_MODEL"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @classmethod
    def _missing_(cls, value: object) -> "ExecutionState | None":
        return cls.WAITING_FOR_ANSWER if value == EARLIER_WAITING_FOR_ANSWER else None

    @property
    def terminal(self) -> bool:
        """Whether the execution has ended: its row changes no more."""
        return self in TERMINAL_STATES

    @property
    def parked(self) -> bool:
        """Whether the execution waits for a person or a model, with nothing running."""
        return self in PARKED_STATES


TERMINAL_STATES = frozenset({ExecutionState.SUCCEEDED, ExecutionState.FAILED, ExecutionState.CANCELLED})


PARKED_STATES = frozenset(
    {
        ExecutionState.WAITING_FOR_ANSWER,
        ExecutionState.WAITING_FOR_CREDENTIAL,
        ExecutionState.WAITING_FOR_MODEL,
    }
)


class TaskState(StrEnum):
    """Where a task of an execution stands; the names are those of `coxswain.orchestrator.v1.TaskState`."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING_FOR_ANSWER = "WAITING_FOR_ANSWER"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"

    @classmethod
    def _missing_(cls, value: object) -> "TaskState | None":
        return cls.WAITING_FOR_ANSWER if value == EARLIER_WAITING_FOR_ANSWER else None

    @property
    def terminal(self) -> bool:
        """Whether the task has ended."""
        return self.done or self in {TaskState.FAILED, TaskState.CANCELLED}

    @property
    def done(self) -> bool:
        """Whether later tasks need not wait for it any more."""
        return self in {TaskState.SUCCEEDED, TaskState.SKIPPED}


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


class OverlapPolicy(StrEnum):
    """What happens while another execution with the same key has not ended; the names are those of
    `coxswain.orchestrator.v1.OverlapPolicy`."""

    ALLOW = "ALLOW"
    SKIP = "SKIP"
    QUEUE = "QUEUE"
    CANCEL_OLD = "CANCEL_OLD"


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """The result of a task."""

    text: str
    structured: dict[str, Any] | None = None
    agent_role: str = ""
    cut_off: bool = False
    """Whether the answer ended at the largest number of tokens."""


@dataclass(frozen=True, slots=True)
class Success:
    """The end of an execution all of whose tasks are done."""

    result: TaskOutput | None
    """Of its last task; None when all were skipped."""
    at: datetime


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """Why an execution or a task failed; `reason` is an ErrorReason without its prefix."""

    reason: str
    message: str
    task_name: str = ""


@dataclass(frozen=True, slots=True)
class ModelWait:
    """A model that is called again later for a task, because its provider fails in a way that passes."""

    task_index: int
    task_name: str
    model: str
    reason: str
    """An ErrorReason without its prefix."""
    message: str
    failures: int
    """Calls that failed since the model's last answer to the task."""
    since: datetime
    """When the first of them failed."""
    retry_at: datetime
    give_up_at: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls have used; cost in US dollars as far as prices are known."""

    llm_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    tool_calls: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Return the sum of both."""
        return Usage(
            llm_calls=self.llm_calls + other.llm_calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=self.cost + other.cost,
            tool_calls=self.tool_calls + other.tool_calls,
        )


@dataclass(frozen=True, slots=True)
class Start:
    """What to run, and how."""

    crew_id: str
    """Empty when the crew is named by `crew_name`."""
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
    crew_name: str = ""
    limits: ExecutionLimits = field(default_factory=ExecutionLimits)
    """Of these and the crew's own, the lower ones hold."""
    concurrency_key: str = ""
    """What executions share that must not overlap; empty for none."""
    overlap_policy: OverlapPolicy = OverlapPolicy.ALLOW

    @property
    def crew(self) -> ResourceKey:
        """The crew to run."""
        return ResourceKey(self.crew_id, self.crew_name)


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a crew, as its row says."""

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
    """Whether it waits for a worker host; one that is RUNNING then has lost its host."""
    last_sequence: int
    usage: Usage
    created_at: datetime
    schedule_id: str = ""
    """The schedule that started it, if one did."""
    batch_id: str = ""
    """The batch it belongs to, if it does."""
    batch_index: int | None = None
    """Position of its inputs in the batch."""
    concurrency_key: str = ""
    """What it shares with executions that it must not overlap; empty for none."""
    overlap_policy: OverlapPolicy = OverlapPolicy.ALLOW
    waits_turn: bool = False
    """Whether it is not ready because others with its key have not ended."""
    lost_hosts: int = 0
    """How many hosts in a row have died with it, no task of it finished by them."""
    limits: ExecutionLimits = field(default_factory=ExecutionLimits)
    """Those that were chosen when it was started; the crew's own hold beside them."""
    used_before: Usage = field(default_factory=Usage)
    """What the executions that it continues have used, which counts against its limits."""
    from_task: str = ""
    """The task that runs again in any case, if it continues another execution and one was named."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    result: TaskOutput | None = None
    error: ExecutionError | None = None
    model_waits: tuple[ModelWait, ...] = ()
    """The models it waits for, the longest one first."""
    open_question_ids: tuple[str, ...] = ()
    """Oldest first."""
    traceparent: str = ""
    """The trace that whoever runs it continues, as W3C writes it; empty where traces were off when it was started."""


PLAN_INDEX = -1
"""The task index under which the making of a crew's plan is kept."""


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
    open_question_ids: tuple[str, ...] = ()
    """Oldest first."""
    output_artifact: str = ""
    """Name of the file that holds its output, if one does."""
