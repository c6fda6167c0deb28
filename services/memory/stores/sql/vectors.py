"""Exact nearest neighbours by NumPy, and the bounded memory of what was read for it."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from services.memory.domain.moments import DAY_US, microseconds
from services.memory.domain.searches import Query
from services.memory.stores.sql.blocks import Mask, VectorBlock


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best rows so far, best first; equal scores by id, so that the order is always the same."""

    ids: npt.NDArray[np.bytes_]
    scores: npt.NDArray[np.float64]
    similarities: npt.NDArray[np.float64]

    @classmethod
    def none(cls) -> Self:
        """Return no candidates."""
        return cls(np.empty(0, "S64"), np.empty(0), np.empty(0))

    def merged(self, other: "Candidates", limit: int) -> "Candidates":
        """Return the best of both."""
        return _best(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.similarities, other.similarities]),
            limit,
        )


def nearest(block: VectorBlock, query: Query, allowed: Mask, now_us: int) -> Candidates:
    """Return the best allowed rows of a block."""
    if not len(block):
        return Candidates.none()
    exact = block.matrix @ query.vector
    # np.clip takes several times as long for a few rows.
    np.minimum(exact, 1.0, out=exact)
    np.maximum(exact, -1.0, out=exact)
    ids, created_us, importance = block.ids, block.created_us, block.importance
    kept = None if allowed.all() else np.flatnonzero(allowed)
    if kept is not None:
        exact = exact[kept]
    if query.ranking is None and query.after is None and len(exact) > query.limit:
        # Few rows are left here, and only of those the rest is looked at; equal scores stay together.
        bound = np.partition(exact, len(exact) - query.limit)[len(exact) - query.limit]
        best = np.flatnonzero(exact >= bound)
        exact = exact[best]
        kept = best if kept is None else kept[best]
    if kept is not None:
        ids, created_us, importance = ids[kept], created_us[kept], importance[kept]
    scores = similarity = exact.astype(np.float64)
    if query.ranking is not None:
        scores = _blended(query, similarity, created_us, importance, now_us)
    later: Mask | None = None
    if query.min_score is not None:
        later = similarity >= query.min_score
    if query.after is not None:
        last = query.after.stored_id.encode()
        # The last result itself never comes again, should its score be computed a little lower than before.
        behind = ((scores < query.after.score) & (ids != last)) | ((scores == query.after.score) & (ids > last))
        later = behind if later is None else later & behind
    if later is not None:
        ids, scores, similarity = ids[later], scores[later], similarity[later]
    return _best(ids, scores, similarity, query.limit)


def scores_of(
    block: VectorBlock,
    query: Query,
    positions: npt.NDArray[np.intp],
    similarities: npt.NDArray[np.float32],
    now_us: int,
) -> npt.NDArray[Any]:
    """Return the scores that rows of a block would have with these similarities."""
    if query.ranking is None:
        return similarities
    created_us, importance = block.created_us[positions], block.importance[positions]
    return _blended(query, similarities.astype(np.float64), created_us, importance, now_us)


def _blended(
    query: Query,
    similarity: npt.NDArray[np.float64],
    created_us: npt.NDArray[np.int64],
    importance: npt.NDArray[np.float32],
    now_us: int,
) -> npt.NDArray[np.float64]:
    assert query.ranking is not None
    asked_us = microseconds(query.asked_at) if query.asked_at else now_us
    return query.ranking.blend(similarity, (asked_us - created_us) / DAY_US, importance.astype(np.float64))


def _best(
    ids: npt.NDArray[np.bytes_],
    scores: npt.NDArray[np.float64],
    similarities: npt.NDArray[np.float64],
    limit: int,
) -> Candidates:
    if len(ids) > limit:
        # Everything as good as the last winner stays in, so that ties are broken by id and not by chance.
        bound = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        kept = scores >= bound
        ids, scores, similarities = ids[kept], scores[kept], similarities[kept]
    order = np.lexsort((ids, -scores))[:limit]
    return Candidates(ids[order], scores[order], similarities[order])


class VectorCache:
    """Blocks by namespace, least recently used first to go. To be used from one event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[str, tuple[int, VectorBlock]] = LRUCache(
            max_bytes, getsizeof=lambda entry: entry[1].nbytes
        )

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self._entries.currsize)

    def __contains__(self, namespace_id: str) -> bool:
        return namespace_id in self._entries

    def has_room_for(self, block: VectorBlock) -> bool:
        """Return whether a block would be kept, were it the only one."""
        return block.nbytes <= self._entries.maxsize

    def get(self, namespace_id: str) -> tuple[int, VectorBlock] | None:
        """Return the version and block remembered for a namespace."""
        return self._entries.get(namespace_id)

    def put(self, namespace_id: str, version: int, block: VectorBlock) -> None:
        """Remember a block, and forget others until all fit; one that is larger than the cache is not kept."""
        self.drop(namespace_id)
        if self.has_room_for(block):
            self._entries[namespace_id] = (version, block)

    def drop(self, namespace_id: str) -> None:
        """Forget a namespace."""
        self._entries.pop(namespace_id, None)
