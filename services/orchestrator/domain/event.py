"""What happens in executions."""

from dataclasses import dataclass
from datetime import datetime

CHUNK = "llm_chunk"
"""The kind of events that may be pruned once their call's full text is stored."""
TERMINAL_KINDS = frozenset({"execution_succeeded", "execution_failed", "execution_cancelled"})
"""The kinds of an execution's last event."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be stored: `payload` is a serialized ExecutionEvent that holds nothing but its `event`."""

    kind: str
    """The name of the field set in the oneof. Example: `llm_chunk`."""
    payload: bytes
    task_index: int | None = None
    task_name: str = ""
    attempt: int = 0
    call_id: str = ""
    """For model calls: what their chunks are pruned by."""
    time: datetime | None = None
    """When it happened; None means when it is stored."""
    summary: bytes | None = None
    """For events of the group's stream: the payload without results."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its sequence number."""

    sequence: int
    time: datetime
    kind: str
    payload: bytes
    task_index: int | None
    task_name: str
    attempt: int
