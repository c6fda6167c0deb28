"""Which rows of a block a filter asks for, kept a while: a save that looks for near-copies asks the same many times."""

from collections import deque
from typing import Final
from weakref import WeakKeyDictionary

from services.memory.domain.filters import Filter
from services.memory.stores.sql.blocks import Mask, VectorBlock

_KEPT: Final = 4
"""Masks of one block: as many saves at once do not push out each other's."""


class RecentMasks:
    """The last masks of each block that is in use. A mask is as of a moment, which decides what has expired."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[VectorBlock, deque[tuple[Filter, int, Mask]]] = WeakKeyDictionary()

    def get(self, block: VectorBlock, chosen: Filter, now_us: int) -> Mask | None:
        """Return the mask of a filter at a moment."""
        for of, at_us, mask in self._of.get(block, ()):
            if at_us == now_us and of == chosen:
                return mask
        return None

    def put(self, block: VectorBlock, chosen: Filter, now_us: int, mask: Mask) -> None:
        """Keep a mask, and forget the oldest."""
        self._of.setdefault(block, deque(maxlen=_KEPT)).append((chosen, now_us, mask))
