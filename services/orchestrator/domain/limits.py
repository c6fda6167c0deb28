"""Limits on what one execution may use."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """The most that one execution may use; None means no limit. The names are those of the message."""

    max_cost: float | None = None
    max_tokens: int | None = None
    max_model_calls: int | None = None
    max_tool_calls: int | None = None

    def lowered_by(self, other: "ExecutionLimits") -> "ExecutionLimits":
        """Return the lower one of each limit."""
        return ExecutionLimits(
            *(
                min((value for value in (getattr(self, limit.name), getattr(other, limit.name)) if value), default=None)
                for limit in fields(self)
            )
        )
