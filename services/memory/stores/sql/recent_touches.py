"""Which records this process touched lately: a touch changes no vector, and is not written beside its row."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from cachetools import LRUCache

_NAMESPACES: Final = 1000
_TOUCHES: Final = 32
_IDS: Final = 100
"""Of a touch that is noted: those of searches are of a few records."""


class RecentTouches:
    """Touches by namespace and version. Those of other processes are not among them."""

    def __init__(self) -> None:
        self._of: LRUCache[str, deque[tuple[int, Sequence[str]]]] = LRUCache(_NAMESPACES)

    def note(self, namespace_id: str, version: int, ids: Sequence[str]) -> None:
        """Note which stored ids the committed write of a version touched, unless they are many."""
        if len(ids) > _IDS:
            return
        own = self._of.get(namespace_id)
        if own is None:
            own = self._of[namespace_id] = deque(maxlen=_TOUCHES)
        own.append((version, ids))

    def since(self, namespace_id: str, version: int) -> Mapping[int, Sequence[str]]:
        """Return the ids that each known write after a version touched."""
        return {later: ids for later, ids in self._of.get(namespace_id, ()) if later > version}
