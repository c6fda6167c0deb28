"""The newest of what is followed, kept for everybody who follows it."""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from services.common.errors import Unavailable

P = TypeVar("P", bound=Any)
"""A position: positions can be compared."""
E = TypeVar("E")


class Tail(Generic[P, E]):
    """The newest events of a stream, and who waits for more."""

    def __init__(self, last: P, position_of: Callable[[E], P], size_of: Callable[[E], int]) -> None:
        """`last` is the position behind which the tail begins; `size_of` returns the bytes of an event."""
        self.floor = last
        """Events up to this position are not kept here."""
        self.last = last
        """Events up to this position have been read."""
        self._position_of = position_of
        self._size_of = size_of
        self._events: list[E] = []
        self._size = 0
        self._changed = asyncio.Event()

    def extend(self, events: Sequence[E], max_bytes: int) -> None:
        """Add newer events, let go of the oldest beyond `max_bytes`, and wake who waits."""
        self._events += events
        self._size += sum(map(self._size_of, events))
        self.last = self._position_of(self._events[-1])
        dropped = 0
        while self._size > max_bytes and dropped < len(self._events):
            self._size -= self._size_of(self._events[dropped])
            self.floor = self._position_of(self._events[dropped])
            dropped += 1
        del self._events[:dropped]
        self.wake()

    def after(self, position: P) -> list[E]:
        """Return the events kept here beyond a position that is not below the floor."""
        return self._events[bisect_right(self._events, position, key=self._position_of) :]

    def wake(self) -> None:
        """Let everybody who waits look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait for the next `wake`."""
        await self._changed.wait()


def shutting_down(place: str) -> Unavailable:
    """Return the failure of a watch on a server that is shutting down; `place` is where to continue elsewhere."""
    return Unavailable(
        f"this replica is shutting down; watch again from the last {place} you have seen",
        reason="OVERLOADED",
        retry_after=0.2,
    )
