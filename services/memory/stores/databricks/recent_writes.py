"""Recent writes: reads may still show the state before them."""

from collections.abc import Iterable

from cachetools import TTLCache

_MOST_KEYS = 50_000


class RecentWrites:
    """Rows written or removed through this process within some seconds, by primary key."""

    def __init__(self, seconds: float) -> None:
        self._removed: TTLCache[str, bool] = TTLCache(_MOST_KEYS, seconds)

    def note(self, keys: Iterable[str], *, removed: bool) -> None:
        """Remember that rows are being written or removed now."""
        for key in keys:
            self._removed[key] = removed

    def written(self, key: str) -> bool:
        """Return whether the row was written or removed lately."""
        return key in self._removed

    def removed(self, key: str) -> bool:
        """Return whether the last change of the row was its removal, lately."""
        return self._removed.get(key, False)
