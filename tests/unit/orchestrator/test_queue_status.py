"""Why an execution waits, in words and for programs."""

import pytest

from services.orchestrator.domain.queue_status import Capacity, PlaceInLine, QueueReason, queue_status

R = QueueReason


@pytest.mark.parametrize(
    ("capacity", "place", "reason", "message"),
    [
        (Capacity(0, 0, 0, None), PlaceInLine(0, 1, 0, 0), R.NO_WORKER_HOST, "no worker host is running"),
        (Capacity(2, 8, 2, 6), PlaceInLine(3, 10, 6, 6), R.GROUP_LIMIT, "the group's limit of 6 is reached"),
        (Capacity(2, 8, 2, None), PlaceInLine(3, 12, 8, 8), R.SLOTS_BUSY, "all 8 slots are busy"),
        (Capacity(2, 8, 2, 16), PlaceInLine(3, 9, 8, 8), R.SLOTS_BUSY, "all 8 slots are busy"),
        # The first of a group may use a reserved slot, while there is one.
        (Capacity(2, 8, 2, None), PlaceInLine(0, 1, 0, 8), R.STARTING, "a worker host is about to take it"),
        (
            Capacity(2, 8, 2, None),
            PlaceInLine(0, 1, 0, 10),
            R.SLOTS_BUSY,
            "all 8 slots are busy, also the 2 reserved ones",
        ),
        (Capacity(1, 1, 0, None), PlaceInLine(0, 1, 0, 1), R.SLOTS_BUSY, "the only slot is busy"),
        (Capacity(2, 8, 2, None), PlaceInLine(0, 4, 3, 7), R.STARTING, "a worker host is about to take it"),
    ],
)
def test_the_reason_fits_what_runs(capacity: Capacity, place: PlaceInLine, reason: QueueReason, message: str) -> None:
    status = queue_status(capacity, place)
    assert (status.reason, status.message, status.ahead_count) == (reason, message, place.ahead_count)
