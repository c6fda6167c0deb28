"""How work grows with what it is done on.

Work is counted in lines of Python, which depends on no clock. What C does within a line is looked at by its time: only
what is far too slow in every one of several tries counts, whatever else the machine does meanwhile.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

MOST_GROWTH = 2.5
"""Times the work for twice as much."""
_SLACK_LINES = 200
_WORTH_A_LOOK_SECONDS = 0.05
_MOST_SLOWER = 9.0
"""Times the time for four times as much; what grows with the square takes sixteen times as long."""
_TRIES = 5


def grows_too_fast(make: Callable[[int], T], work: Callable[[T], object], size: int = 1000) -> str:
    """Return how work on `make(size)` grows too fast with the size; empty: it does not.

    What the work raises as a ValueError, or as a refusal of the product, is one of its outcomes.
    """
    # The first time it may fill caches.
    _do(work, make(2 * size))
    short, long = (lines(make(size * times), work) for times in (1, 2))
    if long > MOST_GROWTH * short + _SLACK_LINES:
        return f"{short} lines become {long}"
    texts = make(4 * size), make(16 * size)
    measured: list[tuple[float, float]] = []
    for _ in range(_TRIES):
        slow = seconds(texts[1], work)
        if slow < _WORTH_A_LOOK_SECONDS or slow <= _MOST_SLOWER * (quick := seconds(texts[0], work)):
            return ""
        measured.append((quick, slow))
    return f"seconds: {measured}"


def lines(given: T, work: Callable[[T], object]) -> int:
    """Return how many lines of Python the work takes."""
    count = 0

    def step(*_: Any) -> Any:
        nonlocal count
        count += 1
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        _do(work, given)
    finally:
        sys.settrace(before)
    return count


def seconds(given: T, work: Callable[[T], object]) -> float:
    """Return the processor time of the work."""
    begun = time.thread_time()
    _do(work, given)
    return time.thread_time() - begun


def _do(work: Callable[[T], object], given: T) -> None:
    from services.common.errors import CoxswainError

    with contextlib.suppress(ValueError, CoxswainError, RecursionError):
        work(given)


def repeated(fragment: str) -> Callable[[int], str]:
    """Return what makes texts of so many characters out of a fragment."""
    return lambda size: fragment * (size // len(fragment))
