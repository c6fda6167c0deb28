"""What calls use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

from services.common.sum_queries import SumQuery


@dataclass(slots=True)
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
    uncounted: Literal["", "input", "output"] = ""
    """Which of the two the upstream gave a number for that no call can have: it is 0 here until it is estimated."""

    def at_cost(self, cost: float) -> "Usage":
        """Return the same tokens with what they cost."""
        return Usage(
            self.input_tokens,
            self.output_tokens,
            self.reasoning_tokens,
            self.cached_input_tokens,
            self.cache_write_input_tokens,
            cost,
            self.estimated,
        )


def completed(counted: Usage | None, estimate: Callable[[], Usage]) -> Usage:
    """Return what an upstream counted, and from `estimate` what it did not count."""
    if counted is None:
        return estimate()
    match counted.uncounted:
        case "input":
            return replace(counted, input_tokens=estimate().input_tokens, uncounted="")
        case "output":
            guess = estimate()
            return replace(
                counted,
                output_tokens=guess.output_tokens,
                reasoning_tokens=min(guess.reasoning_tokens, guess.output_tokens),
                uncounted="",
            )
        case _:
            return counted


CREW_LABEL = "crew"
"""The label that holds the name of the crew whose execution calls."""


@dataclass(slots=True)
class UsageRecord:
    """One call that was answered, or that had begun to be."""

    id: str
    group_id: str
    model: str
    execution_id: str
    called_at: datetime
    usage: Usage
    subject: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class UsageGrouping(StrEnum):
    """What usage is summed by."""

    MODEL = "model"
    EXECUTION = "execution"
    CREW = "crew"
    SUBJECT = "subject"
    DAY = "day"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Usage of several calls."""

    keys: tuple[str, ...]
    """What the calls agree in, in the order of what they are summed by."""
    calls: int
    usage: Usage
    estimated_calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery(SumQuery[UsageGrouping]):
    """Which calls to sum; None and empty mean all. `crew` is one of the labels."""

    execution_id: str = ""
    model: str = ""
    subject: str = ""
