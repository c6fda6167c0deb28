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
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._turns: deque[float] = deque(maxlen=limit)
        """When the newest calls began or, for those that still wait, will begin."""

    def wait(self, at_most: float | None = None) -> bool:
        """Take the next turn and wait for it. False, without taking one, if it is over `at_most` seconds away."""
        with self._lock:
            now = turn = self._clock()
            if len(self._turns) == self._turns.maxlen:
                turn = max(now, self._turns[0] + _MINUTE)
            if at_most is not None and turn - now > at_most:
                return False
            self._turns.append(turn)
        # Nobody waits for the lock meanwhile: later ones see which turns are taken.
        if turn > now:
            self._sleep(turn - now)
        return True
