"""What this process removed from namespaces lately, so that what is remembered of them need not be read again."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

_NAMESPACES: Final = 1000
_IDS: Final = 20_000
"""Ids kept of one namespace."""


@dataclass(frozen=True, slots=True)
class _Removal:
    version: int
    previous: int
    """The version of the removal before this one, whoever did it."""
    ids: Sequence[str]


class RecentRemovals:
    """Removals by namespace, each linked to the one before: one of another process leaves a gap that is noticed."""

    def __init__(self) -> None:
        self._of: LRUCache[str, deque[_Removal]] = LRUCache(_NAMESPACES)

    def note(self, namespace_id: str, version: int, previous: int, ids: Sequence[str]) -> None:
        """Note which stored ids the write of a version removed, once it is committed."""
        removals = self._of.setdefault(namespace_id, deque())
        removals.append(_Removal(version, previous, ids))
        while removals and sum(len(removal.ids) for removal in removals) > _IDS:
            removals.popleft()

    def since(self, namespace_id: str, version: int, last: int) -> Sequence[str] | None:
        """Return the ids removed after a version up to the removal of version `last`; None when not all are known."""
        by_version = {removal.version: removal for removal in self._of.get(namespace_id, ())}
        found: list[str] = []
        while last > version:
            removal = by_version.get(last)
            if removal is None:
                return None
            found += removal.ids
            last = removal.previous
        return found
