"""Keeps an agent to a number of model calls per minute."""

import threading
import time
from collections import deque
from collections.abc import Callable

_MINUTE = 60.0


class Pacer:
    """Lets at most `limit` calls begin in any 60 seconds, across all tasks of a crew process."""

    def __init__(
        self,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._begun: deque[float] = deque()

    def wait(self, at_most: float | None = None) -> bool:
        """Wait for a turn and take it. False, without taking one, if that needs more than `at_most` seconds."""
        with self._lock:  # those who wait keep their order
            now = self._clock()
            while self._begun and self._begun[0] <= now - _MINUTE:
                self._begun.popleft()
            pause = self._begun[0] + _MINUTE - now if len(self._begun) >= self._limit else 0.0
            if at_most is not None and pause > at_most:
                return False
            if pause:
                self._sleep(pause)
                self._begun.popleft()
            self._begun.append(self._clock())
            return True
