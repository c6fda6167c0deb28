"""Recent writes: reads may still show the state before them."""

from collections.abc import Iterable
from typing import TypeAlias

from cachetools import TTLCache

_MOST_KEYS = 50_000

IndexPlace: TypeAlias = tuple[str, str]
"""A workspace and the name of an index in it."""


class RecentWrites:
    """Rows written or removed through this process within some seconds, by index and primary key."""

    def __init__(self, seconds: float) -> None:
        self._removed: TTLCache[tuple[IndexPlace, str], bool] = TTLCache(_MOST_KEYS, seconds)

    def note(self, index: IndexPlace, keys: Iterable[str], *, removed: bool) -> None:
        """Remember that rows are being written or removed now."""
        for key in keys:
            self._removed[index, key] = removed

    def written(self, index: IndexPlace, key: str) -> bool:
        """Return whether the row was written or removed lately."""
        return (index, key) in self._removed

    def removed(self, index: IndexPlace, key: str) -> bool:
        """Return whether the last change of the row was its removal, lately."""
        return self._removed.get((index, key), False)
