"""What attempts make of deliveries."""

from datetime import timedelta

from services.common.clock import utc_now
from services.orchestrator.domain.webhook import Attempt, Delivery, DeliveryState
from services.orchestrator.usecases.webhook_sender import after_attempt

NOW = utc_now()
NEW = Delivery("d", "w", "e", 1, "task_started", DeliveryState.PENDING, 0, 0, "", b"{}", NOW, None, NOW, None)
REFUSED = Attempt(503, "the receiver answered with status 503")


def test_an_attempt_is_repeated_after_growing_pauses_twelve_times() -> None:
    delivery, now, pauses = NEW, NOW, []
    while delivery.state is DeliveryState.PENDING:
        delivery = after_attempt(delivery, REFUSED, now, changed_at=NOW)
        if delivery.next_attempt_at is not None:
            pauses.append((delivery.next_attempt_at - now).total_seconds())
            now = delivery.next_attempt_at
    assert (delivery.state, delivery.attempts, delivery.last_status) == (DeliveryState.FAILED, 12, 503)
    assert delivery.ended_at == now
    longest = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert len(pauses) == len(longest)
    assert all(0.8 * most <= pause <= most for pause, most in zip(pauses, longest, strict=True)), pauses


def test_no_attempt_is_made_a_day_after_the_first_one_or_a_change_of_the_webhook() -> None:
    tried = after_attempt(NEW, REFUSED, NOW, changed_at=NOW)
    day, hour = timedelta(hours=24), timedelta(hours=1)
    for changed_at in (NOW - hour, NOW, NOW + hour):
        end = max(NOW, changed_at) + day
        assert after_attempt(tried, REFUSED, end - hour, changed_at=changed_at).state is DeliveryState.PENDING
        assert after_attempt(tried, REFUSED, end, changed_at=changed_at).state is DeliveryState.FAILED


def test_a_receiver_says_when_to_come_back_and_that_it_is_gone() -> None:
    asked = after_attempt(NEW, Attempt(429, "busy", retry_after=90.0), NOW, changed_at=NOW)
    assert asked.next_attempt_at is not None
    assert 90 <= (asked.next_attempt_at - NOW).total_seconds() <= 91
    assert after_attempt(NEW, Attempt(410, "gone"), NOW, changed_at=NOW).state is DeliveryState.FAILED
    taken = after_attempt(asked, Attempt(204), NOW, changed_at=NOW)
    assert (taken.state, taken.attempts, taken.last_error, taken.next_attempt_at) == (
        DeliveryState.DELIVERED,
        2,
        "",
        None,
    )
