"""What the calls of an execution have used so far, and whether it may make more."""

import contextlib
from collections.abc import Collection, Iterator

from services.common.errors import ResourceExhausted
from services.orchestrator.domain.execution import Usage
from services.orchestrator.domain.limits import ExecutionLimits

_WORDS = {
    "max_cost": "US dollars of cost",
    "max_tokens": "tokens",
    "max_model_calls": "model calls",
    "max_tool_calls": "tool calls",
}


class UsageTotal:
    """A sum that calls are added to as they end, kept to limits."""

    def __init__(self, value: Usage, limits: ExecutionLimits | None = None, before: Usage | None = None) -> None:
        """`before` is what the executions that this one continues have used; only the limits count it."""
        self.value = value
        self._limits = limits or ExecutionLimits()
        self._before = before or Usage()
        self._model_calls = 0

    def add(self, used: Usage) -> None:
        """Add what one call has used."""
        self.value += used

    @contextlib.contextmanager
    def model_call(self) -> Iterator[None]:
        """Count the model call made within as under way.

        Raises:
            ResourceExhausted: a limit is reached.
        """
        used = self.value + self._before
        self._check("max_model_calls", used.llm_calls + self._model_calls)
        self._check("max_tokens", used.input_tokens + used.output_tokens)
        self._check("max_cost", used.cost)
        self._model_calls += 1
        try:
            yield
        finally:
            self._model_calls -= 1

    def check_tool_call(self, cost: float, under_way: Collection[float]) -> None:
        """Return if a tool may be called that costs so much, beside calls `under_way` of which each costs so much.

        Raises:
            ResourceExhausted: a limit is reached.
        """
        used = self.value + self._before
        self._check("max_tool_calls", used.tool_calls + len(under_way))
        if cost:
            self._check("max_cost", used.cost + sum(under_way))

    def _check(self, limit: str, used: float) -> None:
        value = getattr(self._limits, limit)
        if value is None or used < value:
            return
        earlier = ", together with the executions that it continues" if self._before != Usage() else ""
        raise ResourceExhausted(
            f"the execution has used the {value:.10g} {_WORDS[limit]} that limits.{limit} allows{earlier}; resume it "
            f"with a higher limits.{limit} to go on where it stopped (where the crew has this limit, raise that first)",
            reason="EXECUTION_LIMIT_REACHED",
            metadata={"limit": limit, "value": f"{value:.10g}"},
        )
