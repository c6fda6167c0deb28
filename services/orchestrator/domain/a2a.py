"""Crews as agents of other systems, over A2A (Agent2Agent)."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

PROVIDED_PREFIX = "a2a_"
"""Inputs of such names are filled in by the service, not by whoever sends a message."""
TEXT_MODE, JSON_MODE = "text/plain", "application/json"
DEFAULT_MODES = (TEXT_MODE, JSON_MODE)


def readable_id(name: str) -> str:
    """Return a name as an id of ASCII letters, digits and hyphens; empty where it has none. Example: "daily-brief"."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


class ProvidedInput(StrEnum):
    """Inputs that a crew may name in its texts and that each message fills in."""

    MESSAGE_ID = "a2a_message_id"
    CONTEXT_ID = "a2a_context_id"
    TASK_ID = "a2a_task_id"
    CONTEXT = "a2a_context"


@dataclass(frozen=True, slots=True)
class A2ASkill:
    """One thing that an agent can do, as its card says it."""

    id: str
    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class A2ASpec:
    """How a crew answers as an agent. Empty fields stand for the defaults of the proto."""

    published: bool = False
    is_default: bool = False
    skills: tuple[A2ASkill, ...] = ()
    input_modes: tuple[str, ...] = ()
    output_modes: tuple[str, ...] = ()
    text_input: str = ""
    file_input: str = ""
    all_results: bool = False
    public_card: bool = False


@dataclass(frozen=True, slots=True)
class Publication:
    """A crew that other systems can call."""

    tenant: str
    group_id: str
    crew_id: str
    crew_name: str
    is_default: bool
    public_card: bool
    created_at: datetime


class TaskState(StrEnum):
    """Where a task stands; the names are those of A2A without their prefix."""

    SUBMITTED = "SUBMITTED"
    WORKING = "WORKING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    INPUT_REQUIRED = "INPUT_REQUIRED"
    REJECTED = "REJECTED"
    AUTH_REQUIRED = "AUTH_REQUIRED"

    @property
    def terminal(self) -> bool:
        """Whether the task has ended."""
        return self in {TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED}

    @property
    def interrupted(self) -> bool:
        """Whether the task waits for whoever sent it."""
        return self in {TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED}


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as it is stored, without its execution."""

    id: str
    group_id: str
    tenant: str
    crew_id: str
    crew_revision: int
    context_id: str
    status_time: datetime
    subject: str
    execution_id: str | None = None
    """None while inputs are missing, and of a task that ended so."""
    draft_state: TaskState | None = None
    """The state of a task without an execution."""
    draft_inputs: Mapping[str, Any] | None = None
    """The inputs that such a task has been given."""


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """A message of a task, as it is stored."""

    number: int
    """Position among the stored messages of the task; the first one is 0."""
    payload: bytes
    """The serialized message of A2A."""
    created_at: datetime
