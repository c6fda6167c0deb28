"""Calls per minute are kept to, and who cannot wait so long is told at once."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.worker.crew.pacing import Pacer
from tests.support.waiting import PATIENCE

MINUTE = 60.0


class Clock:
    """A clock that is set by hand, and sleeps that only note how long they would have been."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []


def test_calls_over_the_limit_wait_for_their_turn_in_order() -> None:
    clock = Clock()
    pacer = Pacer(2, lambda: clock.now, clock.slept.append)
    assert all(pacer.wait() for _ in range(5))
    assert clock.slept == [60.0, 60.0, 120.0]
    clock.now = 130.0
    assert pacer.wait()
    assert pacer.wait()
    assert clock.slept[3:] == [50.0]


def test_who_cannot_wait_so_long_takes_no_turn() -> None:
    clock = Clock()
    pacer = Pacer(1, lambda: clock.now, clock.slept.append)
    assert pacer.wait(0.0)
    assert not pacer.wait(59.9)
    assert pacer.wait(60.0)
    assert not pacer.wait(119.9), "the turn after a minute is taken"
    assert clock.slept == [60.0]


def test_nobody_is_held_up_by_another_one_that_waits() -> None:
    clock = Clock()
    sleeping, wake = threading.Event(), threading.Event()

    def sleep(_: float) -> None:
        sleeping.set()
        wake.wait(PATIENCE)

    pacer = Pacer(1, lambda: clock.now, sleep)
    assert pacer.wait()
    waiting = threading.Thread(target=pacer.wait, daemon=True)
    waiting.start()
    assert sleeping.wait(PATIENCE)
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(pacer.wait(at_most=0.5)), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    assert answers == [False]
    assert waiting.is_alive()
    wake.set()
    waiting.join(PATIENCE)


@given(st.integers(1, 4), st.lists(st.tuples(st.floats(0, 100), st.none() | st.floats(0, 200)), max_size=30))
def test_no_minute_has_more_calls_than_the_limit(limit: int, asked: list[tuple[float, float | None]]) -> None:
    clock = Clock()
    pacer = Pacer(limit, lambda: clock.now, clock.slept.append)
    begun: list[float] = []
    for later, at_most in asked:
        clock.now += later
        slept = len(clock.slept)
        if pacer.wait(at_most):
            pause = sum(clock.slept[slept:])
            assert at_most is None or pause <= at_most
            begun.append(clock.now + pause)
    assert begun == sorted(begun)
    assert all(last - first >= MINUTE - 1e-6 for first, last in zip(begun, begun[limit:], strict=False))
