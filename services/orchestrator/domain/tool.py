"""Tools of crews, and what is known of their calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.orchestrator.domain.crew import OnDeadline, ToolSpec
from services.orchestrator.domain.tool_source import ApprovalRule


class ToolCallState(StrEnum):
    """What the journal knows of a tool call."""

    INTENT = "INTENT"
    """It was about to run; whether it did is not known."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    """It may have taken effect or not, and only a person can find out."""
    CANCELLED = "CANCELLED"
    """It was taken back before it had any effect."""

    @property
    def ended(self) -> bool:
        """Whether the call has an outcome that is told again instead of calling again."""
        return self in {ToolCallState.COMPLETED, ToolCallState.FAILED}


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
    idempotent_setting: str = ""
    """Name of the boolean setting that decides it instead; empty: none does."""
    acts: bool = False
    """Whether it does something in the world, although calling it twice does it once."""
    in_crew_process: bool = False
    """Whether it is pure, so that the crew process runs it."""
    in_host: bool = False
    """Whether the worker host runs it: it needs nothing but what belongs to the execution and its group."""

    def is_idempotent(self, config: Mapping[str, Any]) -> bool:
        """Return whether calling it twice does no harm, with these settings of a crew."""
        if not self.idempotent_setting:
            return self.idempotent
        default = self.config_schema["properties"][self.idempotent_setting]["default"]
        return config.get(self.idempotent_setting, default) is True


@dataclass(frozen=True, slots=True)
class ResolvedTool:
    """A tool that a crew names, with all that its calls need to know. Times are in seconds."""

    name: str
    """As crews refer to it: `calculator`, `billing/pay`."""
    model_name: str
    """As models are told."""
    description: str
    arguments_schema: dict[str, Any]
    hash: str
    """Over all that a model is told of it."""
    config: dict[str, Any]
    idempotent: bool
    in_crew_process: bool = False
    """Whether it is pure, so that the crew process runs it."""
    in_host: bool = False
    """Whether the worker host runs it; what neither of these runs the tool gateway does."""
    source_id: str = ""
    """Empty: built in."""
    approval: ApprovalRule = ApprovalRule.NEVER
    approval_condition: str = ""
    approval_deadline: float | None = None
    """Seconds; None: a question whether a call may be made waits for ever."""
    approval_on_deadline: OnDeadline = OnDeadline.DECLINE
    outcome_deadline: float | None = None
    """Seconds; None: a question what has become of a call waits for ever."""
    polled: bool = False
    """Whether the same call with the same result is no sign that an agent makes no progress."""
    timeout: float = 60
    max_timeout: float = 900
    max_calls: int | None = None
    """In one execution."""
    result_limit: int = 65536
    """Bytes that the model gets at once."""
    cost: float = 0
    problem_reason: str = ""
    """ErrorReason of every call, for a tool that is not usable now; empty: it is."""
    problem: str = ""
    spec: ToolSpec | None = None
    """How the crew names it, and what it narrows; None: as the source says."""
    source_version: str = ""
    """Version of the source that all this was read from; empty: built in, or there is no such source."""
    changed: bool = False
    """Whether it is no longer what the crew was stored with, and may be called although; an event tells of it."""
