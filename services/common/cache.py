"""Bounded caches whose values are kept for a time of their own."""

import asyncio
import contextlib
import copy
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from cachetools import TLRUCache

from services.common.group_turns import nobodys_context

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Entry(Generic[V]):
    """A value that is kept."""

    value: V
    until: float
    """When it leaves, by the clock of its cache."""


class ExpiringCache(Generic[K, V]):
    """Keeps at most `size` values, each until a time of its own; the least recently used leave first."""

    def __init__(
        self, size: int, clock: Callable[[], float] = time.time, weigh: Callable[[V], int] | None = None
    ) -> None:
        """`clock` gives seconds, from the same origin as the times that values are kept until.

        With `weigh`, `size` bounds the sum of what it returns for the values instead of their number.
        """
        self._size = size
        self._weigh = weigh
        self._entries: TLRUCache[K, Entry[V]] = TLRUCache(
            size,
            lambda _key, entry, _now: entry.until,
            clock,
            getsizeof=None if weigh is None else lambda entry: weigh(entry.value),
        )

    def entry(self, key: K) -> Entry[V] | None:
        """Return the value of `key` with its time, None when there is none."""
        try:
            return self._entries[key]
        except KeyError:
            return None

    def get(self, key: K) -> V | None:
        """Return the value of `key`, None when there is none."""
        entry = self.entry(key)
        return None if entry is None else entry.value

    def put(self, key: K, value: V, until: float) -> None:
        """Keep a value until a time; one whose time is over, or that is too large, is not kept."""
        if self._weigh is not None and self._weigh(value) > self._size:
            self.forget(key)
            return
        self._entries[key] = Entry(value, until)

    def forget(self, key: K) -> None:
        """Drop the value of `key` if there is one."""
        with contextlib.suppress(KeyError):
            del self._entries[key]

    @property
    def weight(self) -> int:
        """The sum of what the values weigh whose time is not over, or their number."""
        self._entries.expire()
        return int(self._entries.currsize)

    def drop_oldest(self) -> None:
        """Drop the value that was used longest ago, if there is any."""
        with contextlib.suppress(KeyError):
            self._entries.popitem()

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys; some may have expired."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Return how many values are held, those included whose time is over."""
        return len(self._entries)


class AsyncCache(Generic[K, V]):
    """An `ExpiringCache` that loads values: once for all who wait for one.

    Refusals are kept apart, as many again at most: made-up keys cannot push values out.
    """

    def __init__(
        self,
        size: int,
        ttl: Callable[[V], float] | float,
        *,
        clock: Callable[[], float] = time.monotonic,
        refused: type[Exception] | None = None,
        refused_seconds: float = 0.0,
    ) -> None:
        """`ttl` is in seconds, or gives the seconds of a value; one of 0 or less is not kept.

        Exceptions of the type `refused` are remembered for `refused_seconds` and raised as copies.
        """
        self._ttl = ttl
        self._clock = clock
        self._refused: tuple[type[Exception], ...] = (refused,) if refused is not None else ()
        self._refused_seconds = refused_seconds
        self._values: ExpiringCache[K, V] = ExpiringCache(size, clock)
        self._refusals: ExpiringCache[K, Exception] = ExpiringCache(size, clock)
        self._loads: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        """Return the value of `key`, from `load` when there is none; calls that come meanwhile share one load.

        Raises:
            Exception: what `load` raises, or raised a moment ago when that is remembered.
        """
        kept = self._values.entry(key)
        if kept is not None:
            return kept.value
        if self._refused and (refusal := self._refusals.get(key)) is not None:
            # One exception raised for many callers would collect the traceback of each.
            raise copy.copy(refusal)
        # The load serves every call that waits for it: one of them being cancelled must not end it.
        return await asyncio.shield(self.load(key, load))

    def load(self, key: K, load: Callable[[], Awaitable[V]]) -> asyncio.Task[V]:
        """Start to load a value anew, unless that is being done, and return the load."""
        loading = self._loads.get(key)
        if loading is None:
            loading = self._loads[key] = asyncio.create_task(self._load(key, load), context=nobodys_context())
            loading.add_done_callback(lambda done: self._loaded(key, done))
        return loading

    def peek(self, key: K) -> V | None:
        """Return the value of `key` when there is one."""
        return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value for its time."""
        seconds = self._ttl(value) if callable(self._ttl) else self._ttl
        self._values.put(key, value, self._clock() + seconds)
        self._refusals.forget(key)

    def forget(self, key: K) -> None:
        """Load the value of `key` again the next time; what is being loaded is not kept either."""
        self._values.forget(key)
        self._refusals.forget(key)
        self._loads.pop(key, None)

    def forget_where(self, chosen: Callable[[K], bool]) -> None:
        """Forget every key for which `chosen` is true."""
        for key in [key for key in {*self._values, *self._refusals, *self._loads} if chosen(key)]:
            self.forget(key)

    def remaining(self, key: K) -> float:
        """Return the seconds for which the value of `key` is kept; 0 when there is none."""
        kept = self._values.entry(key)
        return 0.0 if kept is None else max(0.0, kept.until - self._clock())

    def __len__(self) -> int:
        """Return how many values and refusals are held, those included whose time is over."""
        return len(self._values) + len(self._refusals)

    async def close(self) -> None:
        """End every load."""
        loads = list(self._loads.values())
        for loading in loads:
            loading.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    async def _load(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        try:
            value = await load()
        except self._refused as refusal:
            if self._is_current(key):
                # What was good may have been withdrawn: the refusal counts from now on.
                self._values.forget(key)
                self._refusals.put(key, copy.copy(refusal), self._clock() + self._refused_seconds)
            raise
        if self._is_current(key):
            self.put(key, value)
        return value

    def _is_current(self, key: K) -> bool:
        return self._loads.get(key) is asyncio.current_task()

    def _loaded(self, key: K, done: asyncio.Task[V]) -> None:
        if self._loads.get(key) is done:
            del self._loads[key]
        if not done.cancelled():
            # Marks it as seen: when all waiters were cancelled, the loop would log it as lost.
            done.exception()
