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
    TOOL_APPROVAL = "TOOL_APPROVAL"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    FORM = "FORM"
    URL = "URL"


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
class QuestionedCall:
    """The call of a tool that a question is about."""

    key: str
    """Tells it apart from the other calls of its task."""
    call_id: str
    round: int
    tool: str
    source: str
    """Empty for a built-in tool."""
    arguments: str
    """JSON text."""
    agent_role: str = ""
    agent_text: str = ""
    begun_at: datetime | None = None
    observation: str = ""
    """What was seen of a call of unknown outcome."""
    url: str = ""
    source_key: str = ""
    """By which the source tells its questions apart; empty where it does not."""


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
    result: TaskOutput | None
    """What a RESULT_APPROVAL is about."""
    schema: dict[str, Any] | None
    """What the content of an answer has to follow; None asks for a text, or (URL) for nothing."""
    role: Role
    """Least role that may answer."""
    deadline_at: datetime | None
    on_deadline: OnDeadline
    created_at: datetime
    call: QuestionedCall | None = None
    """What a question of another kind is about."""
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
        """The result of an accepted RESULT_APPROVAL: as it was, or as the answer has edited it."""
        result = self.result or TaskOutput("", None, "")
        match self.answer:
            case Answer(content=str(text)):
                return TaskOutput(text, None, result.agent_role)
            case Answer(content=dict(edited)):
                return TaskOutput(json.dumps(edited, ensure_ascii=False), edited, result.agent_role)
            case _:
                return result


@dataclass(frozen=True, slots=True)
class QuestionChange:
    """A question as a change has left it."""

    sequence: int
    """Position of the change in its group."""
    question: Question
