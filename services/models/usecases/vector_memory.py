"""Vectors that are remembered for groups, each of which has its part of the memory."""

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from services.common.cache import ExpiringCache

Vector = NDArray[np.float32]

# What a vector weighs beside its components: its key and the objects around it.
_OVERHEAD_BYTES = 700
# So large a part of a full memory is made free at once: to find the largest group, all are looked at.
_ROOM_PARTS = 16


@dataclass(frozen=True, slots=True)
class VectorKey:
    """What a vector depends on."""

    group_id: str
    model_id: str
    changed_at: datetime
    """When the model's configuration was changed last."""
    dimensions: int
    """As the call asked for; 0 is the model's own number."""
    digest: bytes
    """SHA-256 of the text."""


class VectorMemory:
    """Keeps vectors for a time, within a bound for all groups.

    When it is full, the group that holds most gives up what it used longest ago: one group's vectors never push out
    those of groups that hold less.
    """

    def __init__(self, max_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`max_bytes` bounds the vectors of all groups; each is kept for `seconds` by `clock`."""
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        self._groups: dict[str, ExpiringCache[VectorKey, Vector]] = {}
        self._most_bytes = 0
        """At least what is held; what has left meanwhile may be counted."""

    def get(self, key: VectorKey) -> Vector | None:
        """Return a vector that is remembered."""
        group = self._groups.get(key.group_id)
        return None if group is None else group.get(key)

    def put(self, vectors: Iterable[tuple[VectorKey, Vector]]) -> None:
        """Remember vectors."""
        until = self._clock() + self._seconds
        for key, vector in vectors:
            group = self._groups.get(key.group_id)
            if group is None:
                group = self._groups[key.group_id] = ExpiringCache(self._max_bytes, self._clock, _weight)
            group.put(key, vector, until)
            self._most_bytes += _weight(vector)
        if self._most_bytes > self._max_bytes:
            self._make_room()

    def forget(self, keys: Iterable[VectorKey]) -> None:
        """Drop these vectors."""
        for key in keys:
            if (group := self._groups.get(key.group_id)) is not None:
                group.forget(key)

    def _make_room(self) -> None:
        self._groups = {group_id: group for group_id, group in self._groups.items() if group.weight}
        heap = [(-group.weight, group_id) for group_id, group in self._groups.items()]
        heapq.heapify(heap)
        excess = -sum(weight for weight, _ in heap) - self._max_bytes
        if excess > 0:
            excess += self._max_bytes // _ROOM_PARTS
        while excess > 0:
            weight, group_id = heapq.heappop(heap)
            group, next_most = self._groups[group_id], -heap[0][0] if heap else 0
            left = -weight
            while excess > 0 and left >= next_most:
                group.drop_oldest()
                excess -= left - group.weight
                left = group.weight
            heapq.heappush(heap, (-left, group_id))
        self._most_bytes = -sum(weight for weight, _ in heap)


def _weight(vector: Vector) -> int:
    return vector.nbytes + _OVERHEAD_BYTES
