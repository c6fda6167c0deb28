"""What the model calls of an execution have used so far."""

from services.orchestrator.domain.execution import Usage


class UsageTotal:
    """A sum that model calls are added to as they end."""

    def __init__(self, value: Usage) -> None:
        self.value = value

    def add(self, used: Usage) -> None:
        """Add what one call has used."""
        total = self.value
        self.value = Usage(
            llm_calls=total.llm_calls + used.llm_calls,
            input_tokens=total.input_tokens + used.input_tokens,
            output_tokens=total.output_tokens + used.output_tokens,
            cost=total.cost + used.cost,
        )
