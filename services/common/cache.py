"""A bounded cache of what takes a while to find out: loaded once for all who wait, and kept for its time."""

import asyncio
import contextlib
import copy
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cachetools import TLRUCache

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[V]):
    value: V
    until: float


class AsyncCache(Generic[K, V]):
    """Keeps at most `size` values, each for its own time; the least recently used leave first.

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
        self._values: TLRUCache[K, _Kept[V]] = TLRUCache(size, _until, clock)
        self._refusals: TLRUCache[K, _Kept[Exception]] = TLRUCache(size, _until, clock)
        self._loads: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        """Return the value of `key`, from `load` when there is none; calls that come meanwhile share one load.

        Raises:
            Exception: what `load` raises, or raised a moment ago when that is remembered.
        """
        kept = self._kept(key)
        if kept is not None:
            return kept.value
        if self._refused and (refusal := self._refusals.get(key)) is not None:
            # One exception raised for many callers would collect the traceback of each.
            raise copy.copy(refusal.value)
        # The load serves every call that waits for it: one of them being cancelled must not end it.
        return await asyncio.shield(self.load(key, load))

    def load(self, key: K, load: Callable[[], Awaitable[V]]) -> asyncio.Task[V]:
        """Start to load a value anew, unless that is being done, and return the load."""
        loading = self._loads.get(key)
        if loading is None:
            loading = self._loads[key] = asyncio.create_task(self._load(key, load))
            loading.add_done_callback(lambda done: self._loaded(key, done))
        return loading

    def peek(self, key: K) -> V | None:
        """Return the value of `key` when there is one."""
        kept = self._kept(key)
        return None if kept is None else kept.value

    def put(self, key: K, value: V) -> None:
        """Keep a value for its time."""
        seconds = self._ttl(value) if callable(self._ttl) else self._ttl
        self._values[key] = _Kept(value, self._clock() + seconds)
        self._discard(self._refusals, key)

    def forget(self, key: K) -> None:
        """Load the value of `key` again the next time; what is being loaded is not kept either."""
        self._discard(self._values, key)
        self._discard(self._refusals, key)
        self._loads.pop(key, None)

    def remaining(self, key: K) -> float:
        """Return the seconds for which the value of `key` is kept; 0 when there is none."""
        kept = self._kept(key)
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
                self._discard(self._values, key)
                self._refusals[key] = _Kept(copy.copy(refusal), self._clock() + self._refused_seconds)
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

    def _kept(self, key: K) -> _Kept[V] | None:
        try:
            return self._values[key]
        except KeyError:
            return None

    @staticmethod
    def _discard(cache: "TLRUCache[K, _Kept[_T]]", key: K) -> None:
        with contextlib.suppress(KeyError):
            del cache[key]


def _until(_key: object, kept: _Kept[Any], _now: float) -> float:
    return kept.until
