"""Addresses to which events of groups are posted."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.orchestrator.domain.group_event import EventFilter, Position


class DeliveryState(StrEnum):
    """How far a delivery has come."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class WebhookPlan:
    """What a caller chooses of a webhook."""

    url: str
    description: str
    chosen: EventFilter
    paused: bool


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of a group."""

    id: str
    group_id: str
    plan: WebhookPlan
    sealed_key: bytes
    position: Position
    """The events of the group up to here have become deliveries, or were not chosen."""
    subject: str
    revision: int
    created_at: datetime
    updated_at: datetime
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one webhook."""

    id: str
    webhook_id: str
    execution_id: str
    sequence: int
    kind: str
    state: DeliveryState
    attempts: int
    last_status: int
    last_error: str
    body: bytes
    created_at: datetime
    first_attempt_at: datetime | None
    next_attempt_at: datetime | None
    """None for deliveries that have ended, and for those behind another one of their execution."""
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What has come of posting a delivery."""

    status: int
    """0: nothing answered."""
    error: str = ""
    """Empty when it was delivered."""
    retry_after: float | None = None
    """Seconds that the receiver asks to wait."""

    @property
    def gone(self) -> bool:
        """Whether the receiver wants nothing more, ever."""
        return self.status == 410
