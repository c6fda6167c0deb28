"""What the tool gateway knows of a call."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class CallKey:
    """A call of a group; two groups may use one id."""

    group_id: str
    call_id: str

    @property
    def row(self) -> str:
        """The name that its sealed values are bound to."""
        return f"gateway_calls/{len(self.group_id)}/{self.group_id}/{self.call_id}"


@dataclass(frozen=True, slots=True)
class GatewayCall:
    """A call of which the first byte may have left."""

    key: CallKey
    execution_id: str
    source: str
    """Name of the source, or of a built-in tool."""
    sent_at: datetime
    replica: str
    """The process that makes or follows it; empty while none does, since it waits at its source."""
    leased_until: datetime
    handle: bytes | None = field(default=None, repr=False)
    """Sealed, as the next ones."""
    outcome: bytes | None = field(default=None, repr=False)
    ended_at: datetime | None = None
    question: bytes | None = field(default=None, repr=False)
    answer: bytes | None = field(default=None, repr=False)
    cancel_requested: bool = False
