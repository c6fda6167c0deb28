"""What this process removed from namespaces lately, so that what is remembered of them need not be read again."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_MOST: Final = 50_000
"""Ids kept of all namespaces, some 100 bytes each; a removal counts as one more."""
_MOST_OF_ONE: Final = 20_000
"""Those of one namespace: from there on reading its ids takes no longer."""


@dataclass(frozen=True, slots=True)
class _Removal:
    version: int
    previous: int
    """The version of the removal before this one, whoever did it."""
    ids: Sequence[str]

    @property
    def size(self) -> int:
        return 1 + len(self.ids)


@dataclass(slots=True)
class _Removals:
    """Those of one namespace, oldest first."""

    kept: deque[_Removal] = field(default_factory=deque)
    size: int = 0


class RecentRemovals:
    """Removals by namespace, each linked to the one before: one of another process leaves a gap that is noticed.

    The namespaces of which nothing was removed or asked for longest are forgotten first.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[str, _Removals] = OrderedDict()
        self.size = 0
        """Ids and removals kept of all namespaces."""

    def note(self, namespace_id: str, version: int, previous: int, ids: Sequence[str]) -> None:
        """Note which stored ids the write of a version removed, once it is committed."""
        own = self._of.setdefault(namespace_id, _Removals())
        self._of.move_to_end(namespace_id)
        removal = _Removal(version, previous, ids)
        own.kept.append(removal)
        own.size += removal.size
        self.size += removal.size
        while own.size > _MOST_OF_ONE:
            size = own.kept.popleft().size
            own.size -= size
            self.size -= size
        while self.size > _MOST:
            self.forget(next(iter(self._of)))

    def forget(self, namespace_id: str) -> None:
        """Forget the removals of a namespace."""
        gone = self._of.pop(namespace_id, None)
        if gone is not None:
            self.size -= gone.size

    def versions_since(self, namespace_id: str, version: int) -> set[int]:
        """Return the versions after one whose writes are known to have removed something."""
        own = self._of.get(namespace_id)
        return {removal.version for removal in own.kept if removal.version > version} if own else set()

    def since(self, namespace_id: str, version: int, last: int) -> Sequence[str] | None:
        """Return the ids removed after a version up to the removal of version `last`; None when not all are known."""
        own = self._of.get(namespace_id)
        if own is None:
            return [] if last <= version else None
        self._of.move_to_end(namespace_id)
        by_version = {removal.version: removal for removal in own.kept}
        found: list[str] = []
        while last > version:
            removal = by_version.get(last)
            if removal is None:
                return None
            found += removal.ids
            last = removal.previous
        return found
