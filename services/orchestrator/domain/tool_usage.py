"""What calls of tools use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from services.common.sum_queries import SumQuery

# Failures for which a rule or a person is the reason, and not what happened to the call.
_REFUSALS = frozenset(
    {"TOOL_NOT_FOUND", "TOOL_DISABLED", "TOOL_CHANGED", "TOOL_ARGUMENTS", "TOOL_RATE_LIMITED", "TOOL_REFUSED"}
)


class ToolCallOutcome(StrEnum):
    """How a call has ended; the names are those of `coxswain.orchestrator.v1.ToolCallOutcome`."""

    UNSPECIFIED = "UNSPECIFIED"
    """In queries: however it ended."""
    OK = "OK"
    FAILED = "FAILED"
    REFUSED = "REFUSED"
    UNKNOWN = "UNKNOWN"
    CANCELLED = "CANCELLED"

    @classmethod
    def of_failure(cls, reason: str) -> "ToolCallOutcome":
        """Return the outcome of a call that failed for an ErrorReason; empty: the tool said so."""
        return cls.REFUSED if reason in _REFUSALS else cls.FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUsageRecord:
    """One call that has ended, or that was refused."""

    id: str
    """The call's id: a call that ends again replaces what its execution knew of it."""
    group_id: str
    subject: str
    tool: str
    source: str
    """Empty: built in."""
    called_at: datetime
    outcome: ToolCallOutcome
    seconds: float = 0.0
    argument_bytes: int = 0
    result_bytes: int = 0
    cost: float = 0.0
    """US dollars."""
    execution_id: str = ""
    """Empty for a call of TestTool, like the rest."""
    crew: str = ""
    task: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those of the execution."""


class ToolUsageGrouping(StrEnum):
    """What usage is summed by; the names are those of `coxswain.orchestrator.v1.ToolUsageGrouping`."""

    TOOL = "tool"
    SOURCE = "source"
    CREW = "crew"
    TASK = "task"
    EXECUTION = "execution"
    SUBJECT = "subject"
    DAY = "day"
    LABEL = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUsageQuery(SumQuery[ToolUsageGrouping]):
    """Which calls to sum; None and empty mean all."""

    tool: str = ""
    source: str = ""
    crew: str = ""
    execution_id: str = ""
    subject: str = ""
    outcome: ToolCallOutcome = ToolCallOutcome.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class ToolUsageSum:
    """Usage of several calls."""

    keys: tuple[str, ...]
    """What the calls agree in, in the order of what they are summed by."""
    calls: int
    """Of every outcome."""
    outcomes: Mapping[ToolCallOutcome, int]
    """How many calls ended like this."""
    seconds: float
    argument_bytes: int
    result_bytes: int
    cost: float
