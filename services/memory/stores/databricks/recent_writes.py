"""What was written lately, of which reads may still show what was before."""

import time
from collections.abc import Iterable

_MOST_KEYS = 50_000


class RecentWrites:
    """Rows written or removed through this process within some seconds, by primary key."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # In the order of time: what is noted again moves to the end.
        self._noted: dict[str, tuple[float, bool]] = {}

    def note(self, keys: Iterable[str], *, removed: bool) -> None:
        """Remember that rows are being written or removed now."""
        now = time.monotonic()
        for key in keys:
            self._noted.pop(key, None)
            self._noted[key] = (now + self._seconds, removed)
        while self._noted:
            oldest = next(iter(self._noted))
            if self._noted[oldest][0] > now and len(self._noted) <= _MOST_KEYS:
                return
            del self._noted[oldest]

    def written(self, key: str) -> bool:
        """Tell whether the row was written or removed lately."""
        known = self._noted.get(key)
        return known is not None and known[0] > time.monotonic()

    def removed(self, key: str) -> bool:
        """Tell whether the last thing that was done to the row lately was to remove it."""
        return self.written(key) and self._noted[key][1]
