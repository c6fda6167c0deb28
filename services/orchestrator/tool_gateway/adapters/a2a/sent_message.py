"""What is kept of a message that was sent, so that its task is found again after a crash."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime

_MAX_ID = 1024
_LATER = frozenset({"version", "answers", "refused", "asks_again"})


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
    version: str = ""
    """Of A2A that the agent speaks; empty means 1.0."""
    answers: Mapping[str, int] = field(default_factory=dict)
    """How many answers the agent has had to each status of its task, by what tells them apart; the last one is last."""
    refused: str = ""
    """Why the agent did not take the last answer; empty if it did."""
    asks_again: bool = False
    """Whether the task waits for the same as before the last answer although the agent has read that."""

    @property
    def last_answered(self) -> str:
        """What tells the status apart that the agent has had its last answer to; empty if it has had none."""
        return next(reversed(list(self.answers)), "")

    def handle(self) -> str:
        """Return it as text."""
        known = asdict(self) | {"sent_at": self.sent_at.isoformat()}
        # What says nothing is left out: gateways of states before these names take no handle with them.
        return json.dumps({name: value for name, value in known.items() if name not in _LATER or value})

    @classmethod
    def from_handle(cls, handle: str) -> "SentMessage | None":
        """Return what `handle` wrote, here or in a later release, without what that alone knows; None otherwise."""
        try:
            found = json.loads(handle)
            known = {each.name: found[each.name] for each in fields(cls) if each.name in found}
            return cls(**known | {"sent_at": datetime.fromisoformat(found["sent_at"])})
        except (ValueError, TypeError, KeyError):
            return None


def is_task_id(task_id: str) -> bool:
    """Whether a text can be the id of a task."""
    return 0 < len(task_id) <= _MAX_ID and task_id.isprintable()
