"""What executions ask people, and what becomes of it."""

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from services.common.identity.principal import Role
from services.orchestrator.domain.crew import OnDeadline
from services.orchestrator.domain.execution import TaskOutput

DEFAULT_TEXT = "Is this result good?"


class QuestionKind(StrEnum):
    """What a question is about; the names are those of `coxswain.orchestrator.v1.QuestionKind`."""

    RESULT_APPROVAL = "RESULT_APPROVAL"


class QuestionState(StrEnum):
    """What has become of a question; the names are those of `coxswain.orchestrator.v1.QuestionState`."""

    OPEN = "OPEN"
    ACCEPTED = "ACCEPTED"
    DECLINED = "DECLINED"
    CANCELLED = "CANCELLED"
    CLOSED = "CLOSED"
    """Its execution ended before an answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What ends a question."""

    state: QuestionState
    """ACCEPTED, DECLINED or CANCELLED."""
    content: Any = None
    """A JSON value in place of what was asked about; None leaves that as it is."""
    reason: str = ""
    """Why it was declined."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question to people."""

    id: str
    kind: QuestionKind
    state: QuestionState
    group_id: str
    execution_id: str
    crew_id: str
    crew_name: str
    task_index: int
    task_name: str
    attempt: int
    text: str
    result: TaskOutput
    """What it is about."""
    schema: dict[str, Any] | None
    """What the content of an answer has to follow; None asks for a text."""
    role: Role
    """Least role that may answer."""
    deadline_at: datetime | None
    on_deadline: OnDeadline
    created_at: datetime
    answer: Answer | None = None
    """None while it is open, and when it was closed."""
    answered_by: str = ""
    """A subject; empty when the deadline answered."""
    answered_at: datetime | None = None

    @property
    def expired(self) -> bool:
        """Whether the deadline has answered it."""
        return self.answer is not None and not self.answered_by

    @property
    def approved_result(self) -> TaskOutput:
        """The result of an accepted question: as it was, or as the answer has edited it."""
        match self.answer:
            case Answer(content=str(text)):
                return TaskOutput(text, None, self.result.agent_role)
            case Answer(content=dict(edited)):
                return TaskOutput(json.dumps(edited, ensure_ascii=False), edited, self.result.agent_role)
            case _:
                return self.result


@dataclass(frozen=True, slots=True)
class QuestionChange:
    """A question as a change has left it."""

    sequence: int
    """Position of the change in its group."""
    question: Question
