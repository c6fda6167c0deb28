"""Why an execution waits for a worker host."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class QueueReason(StrEnum):
    """Why it waits; the names of `coxswain.orchestrator.v1.QueueReason`."""

    NO_WORKER_HOST = "NO_WORKER_HOST"
    GROUP_LIMIT = "GROUP_LIMIT"
    SLOTS_BUSY = "SLOTS_BUSY"
    STARTING = "STARTING"
    TURN = "TURN"


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What a waiting execution waits for."""

    reason: QueueReason
    message: str
    ahead_count: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What all living worker hosts together can run."""

    hosts: int
    slots: int
    reserved_slots: int
    group_limit: int | None


@dataclass(frozen=True, slots=True)
class QueueLength:
    """How much waits for worker hosts, of all groups."""

    length: int
    groups: int
    """How many of them it belongs to."""
    oldest_start: datetime | None
    """When the oldest was started that no host has begun and that need not wait for a turn; None: there is none."""


@dataclass(frozen=True, slots=True)
class PlaceInLine:
    """Where a waiting execution stands."""

    ahead_count: int
    place: int
    """See `Waiting`."""
    running_in_group: int
    running: int
    """Executions that run, of all groups."""
    group_limit: int | None = None
    """How many of its group may run at once, as the operator has set it for this group; None: any number."""


def queue_status(capacity: Capacity, line: PlaceInLine) -> QueueStatus:
    """Return why an execution at a place in the line waits."""
    reason, message = _reason(capacity, line)
    return QueueStatus(reason, message, line.ahead_count)


def turn_status(key: str, ahead_count: int) -> QueueStatus:
    """Return why an execution waits for its turn while so many others with its key have not ended."""
    others = "another execution" if ahead_count == 1 else f"{ahead_count} other executions"
    return QueueStatus(QueueReason.TURN, f'{others} with the key "{key}" must end first', ahead_count)


def _reason(capacity: Capacity, line: PlaceInLine) -> tuple[QueueReason, str]:
    limits = [limit for limit in (capacity.group_limit, line.group_limit) if limit is not None]
    limit = min(limits, default=None)
    if not capacity.hosts:
        return QueueReason.NO_WORKER_HOST, "no worker host is running"
    if limit is not None and line.running_in_group >= limit:
        return QueueReason.GROUP_LIMIT, f"the group's limit of {limit} is reached"
    busy = f"all {capacity.slots} slots are busy" if capacity.slots != 1 else "the only slot is busy"
    # Reserved slots are for the first of a group alone.
    if line.place > 1 and line.running >= capacity.slots:
        return QueueReason.SLOTS_BUSY, busy
    if line.running >= capacity.slots + capacity.reserved_slots:
        reserved = f", also the {capacity.reserved_slots} reserved ones" if capacity.reserved_slots else ""
        return QueueReason.SLOTS_BUSY, busy + reserved
    return QueueReason.STARTING, "a worker host is about to take it"
