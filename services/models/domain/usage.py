"""What calls use, and what groups may use."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call."""

    input_tokens: int = 0
    output_tokens: int = 0
    """Reasoning included."""
    reasoning_tokens: int = 0
    cached_input_tokens: int = 0
    """Tokens of the prompt that the upstream read from its cache."""
    cache_write_input_tokens: int = 0
    """Tokens of the prompt that the upstream wrote into its cache."""
    cost: float = 0.0
    """US dollars; 0 when prices are unknown."""
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """A group's limits; 0 means no limit."""

    monthly_cost_limit: float = 0.0
    """US dollars in a calendar month (UTC)."""
    calls_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One call that was answered, or that had begun to be."""

    id: str
    group_id: str
    model: str
    execution_id: str
    called_at: datetime
    usage: Usage


class UsageGrouping(StrEnum):
    """What usage is summed by."""

    MODEL = "model"
    EXECUTION = "execution"


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Usage of several calls."""

    key: str
    """The model's name or the execution's id."""
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which calls to sum; None and empty mean all."""

    grouping: UsageGrouping
    start: datetime | None = None
    end: datetime | None = None
    execution_id: str = ""
