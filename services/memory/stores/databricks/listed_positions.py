"""The order of lists that are being paged through: finding it takes a pass over all rows of an owner."""

import bisect
import time
from collections.abc import Callable, Hashable, Sequence

from services.common.cache import ExpiringCache
from services.memory.domain.listings import ListPosition

_MOST_POSITIONS = 250_000
"""Positions that are remembered in all, some 50 MB. Longer lists are read anew for each page."""

Position = tuple[int, str]
"""When a record was made and its primary key."""


class ListedPositions:
    """Remembers for a while what follows the first page of a list.

    What is saved meanwhile comes before it, and what is removed is noticed when the page is read.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float] = time.monotonic, *, most: int = _MOST_POSITIONS
    ) -> None:
        """`most` is how many positions are remembered in all."""
        self.most = most
        self._seconds = seconds
        self._clock = clock
        self._lists: ExpiringCache[Hashable, Sequence[Position]] = ExpiringCache(most, clock, weigh=len)

    def get(self, listing: Hashable) -> Sequence[Position] | None:
        """Return the positions of a list, oldest first, as `put` was given them."""
        return self._lists.get(listing)

    def put(self, listing: Hashable, positions: Sequence[Position]) -> None:
        """Remember the positions of a whole list, oldest first: pages before and after this one are found in them."""
        self._lists.put(listing, positions, self._clock() + self._seconds)


def page_after(positions: Sequence[Position], after: ListPosition | None, limit: int) -> tuple[list[Position], bool]:
    """Return the next positions of a list that is given oldest first, newest first, and whether more follow."""
    end = len(positions) if after is None else bisect.bisect_left(positions, (after.created, after.stored_id))
    start = max(0, end - limit)
    return list(reversed(positions[start:end])), start > 0
