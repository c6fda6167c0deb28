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
class ExecutionWebhookPlan:
    """Where the events of one execution are to be posted."""

    url: str
    kinds: frozenset[str]
    """Empty: all of them."""


class PayloadForm(StrEnum):
    """What is posted of an event, and how it proves where it comes from."""

    NOTIFICATION = "NOTIFICATION"
    """A WebhookNotification, signed with the webhook's key."""
    A2A = "A2A"
    """What a stream of A2A 1.0 says, with the credentials that the receiver has named."""
    A2A_03 = "A2A_03"
    """A task of A2A 0.3, with these as well."""


@dataclass(frozen=True, slots=True)
class Binding:
    """The one execution or task that a webhook is for."""

    sequence: int
    """The events of the execution up to here have become deliveries, or were not chosen."""
    execution_id: str | None
    """None for a task that has no execution yet."""
    task_id: str = ""
    config_id: str = ""
    form: PayloadForm = PayloadForm.NOTIFICATION


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of a group."""

    id: str
    group_id: str
    plan: WebhookPlan
    sealed_key: bytes
    position: Position
    """The events of the group up to here have become deliveries, or were not chosen. `NOWHERE` for a bound one."""
    subject: str
    revision: int
    created_at: datetime
    updated_at: datetime
    gone: bool = False
    bound: Binding | None = None
    """None: it is for all executions of the group that it chooses."""
    former_key: bytes | None = None
    former_key_until: datetime | None = None
    """Until then deliveries are signed with the former key as well."""


NOWHERE = Position(2**63 - 1, 2**63 - 1)
"""Behind all events that will ever be."""


def place_of(sequence: int, *, artifact: bool) -> int:
    """Return the place of a push notification among those of its task: an artifact comes before a status."""
    return 2 * sequence - artifact


def event_of(place: int) -> tuple[int, bool]:
    """Return the sequence of the event of a push notification, and whether it is an artifact."""
    return (place + 1) // 2, bool(place % 2)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one webhook."""

    id: str
    webhook_id: str
    execution_id: str
    """Empty for an event of a schedule."""
    sequence: int
    """Of the event; of a push notification its place: see `place_of`."""
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
    event_id: int | None = None
    """Of the event in the group, without an execution; None in deliveries that an earlier release made."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Deliveries of one webhook that have not ended."""

    deliveries: int
    size: int
    """Bytes of their bodies."""


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
