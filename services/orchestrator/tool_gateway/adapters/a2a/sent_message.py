"""What is kept of a message that was sent, so that its task is found again after a crash."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime

_MAX_ID = 1024


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message to an agent, and its task once that is known."""

    message_id: str
    sent_at: datetime
    address: str
    """HOST:PORT that it was sent to."""
    tenant: str
    task_id: str = ""
    """Empty as long as the agent has not answered."""

    def handle(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self) | {"sent_at": self.sent_at.isoformat()})

    @classmethod
    def from_handle(cls, handle: str) -> "SentMessage | None":
        """Return what `handle` wrote; None for anything else."""
        try:
            found = json.loads(handle)
            return cls(**found | {"sent_at": datetime.fromisoformat(found["sent_at"])})
        except (ValueError, TypeError, KeyError):
            return None


def is_task_id(task_id: str) -> bool:
    """Whether a text can be the id of a task."""
    return 0 < len(task_id) <= _MAX_ID and task_id.isprintable()
