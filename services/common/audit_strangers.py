"""How many lines of the audit log those may fill whom nobody knows."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable

_SECONDS = 60.0
_MOST = 60
_MOST_OF_HOST = 20


class StrangerLines:
    """Lets some lines a minute pass, altogether and of one host, and tells how many it has kept back."""

    def __init__(self, tell: Callable[[int], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`tell` takes a number of lines, in any thread; it is called within a minute of the first one."""
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._window_ends = -math.inf
        self._lines = Counter[str]()
        self._kept_back = 0
        self._timer: threading.Timer | None = None

    def lets_pass(self, host: str) -> bool:
        """Return whether there is room for one more line, and count it."""
        with self._lock:
            now = self._clock()
            if now >= self._window_ends:
                self._window_ends = now + _SECONDS
                self._lines.clear()
            if self._lines.total() < _MOST and self._lines[host] < _MOST_OF_HOST:
                self._lines[host] += 1
                return True
            self._kept_back += 1
            if self._timer is None:
                self._timer = threading.Timer(self._window_ends - now, self.tell)
                self._timer.daemon = True
                self._timer.start()
            return False

    def tell(self) -> None:
        """Tell now of what was kept back, if anything was."""
        with self._lock:
            count, self._kept_back = self._kept_back, 0
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if count:
            self._tell(count)
