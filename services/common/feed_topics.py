"""What feeds of events share: who follows what, and the newest of it, kept for everybody who follows it."""

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from services.common.errors import Unavailable
from services.common.group_lines import wait_without_turn
from services.common.paced_cancel import PacedFuture

P = TypeVar("P", bound=Any)
"""A position: positions can be compared."""
E = TypeVar("E")


class News:
    """Something that comes once, for all who wait for it; they hold no turn of their group."""

    def __init__(self) -> None:
        self._waiting: set[PacedFuture[None]] | None = set()
        """None once it has come."""

    def come(self) -> None:
        """Let everybody go on who waits."""
        waiting, self._waiting = self._waiting or (), None
        for future in waiting:
            if future.wanted:
                future.set_result(None)

    async def wait(self) -> None:
        """Wait until it comes."""
        wait_without_turn()
        if self._waiting is None:
            return
        future = PacedFuture[None](loop=asyncio.get_running_loop())
        self._waiting.add(future)
        try:
            await future
        finally:
            if self._waiting is not None:
                self._waiting.discard(future)


class Topic:
    """Something that is followed, and who waits for news of it."""

    def __init__(self) -> None:
        self._changed = News()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        self._changed.come()
        self._changed = News()

    @property
    def changed(self) -> News:
        """Comes with the next `wake`."""
        return self._changed


class Tail(Topic, Generic[P, E]):
    """The newest events of a stream."""

    def __init__(self, last: P, position_of: Callable[[E], P], size_of: Callable[[E], int]) -> None:
        """`last` is the position behind which the tail begins; `size_of` returns the bytes of an event."""
        super().__init__()
        self.floor = last
        """Events up to this position are not kept here."""
        self.last = last
        """Events up to this position have been read."""
        self._position_of = position_of
        self._size_of = size_of
        self._events: list[E] = []
        self._size = 0

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


T = TypeVar("T", bound=Topic)


class Topics(Generic[T]):
    """What is followed in this process, each by its id and for as long as somebody follows it."""

    def __init__(self, place: str, close: Callable[[T], None] | None = None) -> None:
        """`place` is what callers continue from elsewhere when this process ends: "sequence" or "position".

        `close` is called with each topic that nobody follows any more.
        """
        self.topics: dict[str, T] = {}
        self._place = place
        self._close = close
        self._followers: dict[str, int] = {}
        self._draining = False

    @contextlib.contextmanager
    def followed(self, key: str, make: Callable[[], T]) -> Iterator[T]:
        """Have a topic within, made by `make` if nobody else follows it."""
        if key not in self.topics:
            self.topics[key] = make()
            self._followers[key] = 0
        self._followers[key] += 1
        try:
            yield self.topics[key]
        finally:
            self._followers[key] -= 1
            if not self._followers[key]:
                del self._followers[key]
                topic = self.topics.pop(key)
                if self._close is not None:
                    self._close(topic)

    def drain(self) -> None:
        """End everybody's following, now and from now on."""
        self._draining = True
        for topic in self.topics.values():
            topic.wake()

    def refuse_when_draining(self) -> None:
        """Raise Unavailable when this process ends."""
        if self._draining:
            raise Unavailable.shutting_down(
                f"this replica is shutting down; watch again from the last {self._place} you have seen", 0.2
            )
