"""Exact nearest neighbours by NumPy, and the bounded memory of what was read for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from services.memory.domain.filters import Filter
from services.memory.domain.moments import microseconds
from services.memory.domain.scopes import within_scope
from services.memory.domain.searches import Query

NEVER_US = np.iinfo(np.int64).max
"""The expiry of rows that do not expire."""

ROW_BYTES = 64 + 8 + 8 + 4 + 1 + 4 + 4
"""Bytes of a row beside its vector."""

_DAY_US = 86_400_000_000.0

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Labels:
    """A column of few distinct texts: a code for each row, and what the codes stand for."""

    codes: npt.NDArray[np.int32]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[str]) -> Self:
        """Encode a column."""
        codes_of: dict[str, int] = {}
        codes = np.fromiter((codes_of.setdefault(value, len(codes_of)) for value in values), np.int32, len(values))
        return cls(codes, tuple(codes_of))

    @classmethod
    def joined(cls, columns: Sequence["Labels"]) -> Self:
        """Return the columns one after the other."""
        codes_of: dict[str, int] = {}
        codes = [
            np.array([codes_of.setdefault(text, len(codes_of)) for text in column.texts], dtype=np.int32)[column.codes]
            for column in columns
        ]
        return cls(np.concatenate(codes), tuple(codes_of))

    def among(self, accepted: Sequence[bool]) -> Mask:
        """Return a mask of rows whose text is accepted, given one for the distinct texts."""
        result: Mask = np.asarray(accepted, dtype=np.bool_)[self.codes]
        return result


@dataclass(frozen=True, slots=True)
class VectorBlock:
    """Rows of a namespace as arrays of equal length. Never changed once made."""

    ids: npt.NDArray[np.bytes_]
    matrix: npt.NDArray[np.float32]
    created_us: npt.NDArray[np.int64]
    expires_us: npt.NDArray[np.int64]
    importance: npt.NDArray[np.float32]
    private: Mask
    sources: Labels
    scopes: Labels

    @classmethod
    def of(
        cls,
        dimension: int,
        *,
        ids: Sequence[str],
        embeddings: Sequence[bytes],
        created_us: Sequence[int],
        expires_us: Sequence[int | None] = (),
        importance: Sequence[float] = (),
        private: Sequence[bool] = (),
        sources: Sequence[str] = (),
        scopes: Sequence[str] = (),
    ) -> Self:
        """Build the arrays from columns; an empty one stands for rows that have nothing there.

        Raises:
            ValueError: a vector has another dimension, or a column another length.
        """
        count = len(ids)
        return cls(
            ids=np.array([stored_id.encode() for stored_id in ids], dtype="S64"),
            matrix=np.frombuffer(b"".join(embeddings), dtype="<f4").reshape(count, dimension),
            created_us=np.array(created_us, dtype=np.int64),
            expires_us=np.fromiter(
                (NEVER_US if moment is None else moment for moment in expires_us or repeat(None, count)),
                np.int64,
                count,
            ),
            importance=np.fromiter(importance or repeat(0.0, count), np.float32, count),
            private=np.fromiter(private or repeat(False, count), np.bool_, count),
            sources=Labels.of(sources or [""] * count),
            scopes=Labels.of(scopes or [""] * count),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, near enough."""
        texts = sum(len(text) + 64 for text in (*self.sources.texts, *self.scopes.texts))
        return self.matrix.nbytes + ROW_BYTES * len(self) + texts

    @classmethod
    def joined(cls, blocks: Sequence["VectorBlock"]) -> Self:
        """Return the rows of the blocks, of which there is at least one, one after the other."""
        return cls(
            ids=np.concatenate([block.ids for block in blocks]),
            matrix=np.concatenate([block.matrix for block in blocks]),
            created_us=np.concatenate([block.created_us for block in blocks]),
            expires_us=np.concatenate([block.expires_us for block in blocks]),
            importance=np.concatenate([block.importance for block in blocks]),
            private=np.concatenate([block.private for block in blocks]),
            sources=Labels.joined([block.sources for block in blocks]),
            scopes=Labels.joined([block.scopes for block in blocks]),
        )

    def updated(self, newer: "VectorBlock") -> "VectorBlock":
        """Return the block with rows of the same id replaced and the others of `newer` added."""
        kept: Mask = ~np.isin(self.ids, newer.ids)
        older = VectorBlock(
            ids=self.ids[kept],
            matrix=self.matrix[kept],
            created_us=self.created_us[kept],
            expires_us=self.expires_us[kept],
            importance=self.importance[kept],
            private=self.private[kept],
            sources=Labels(self.sources.codes[kept], self.sources.texts),
            scopes=Labels(self.scopes.codes[kept], self.scopes.texts),
        )
        return VectorBlock.joined([older, newer])

    def allowed(self, chosen: Filter, now_us: int, *, unified: bool) -> Mask:
        """Return a mask of rows that are alive and pass the part of the filter that these arrays can decide."""
        mask: Mask = self.expires_us > now_us
        if chosen.created_before is not None:
            mask &= self.created_us < microseconds(chosen.created_before)
        if chosen.created_after is not None:
            mask &= self.created_us >= microseconds(chosen.created_after)
        if not unified:
            return mask
        # Whose the others are is not remembered.
        if not chosen.include_private and not chosen.owner:
            mask &= ~self.private
        if chosen.scope_prefix:
            mask &= self.scopes.among([within_scope(text, chosen.scope_prefix) for text in self.scopes.texts])
        return mask


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
    similarity = np.clip((block.matrix @ query.vector).astype(np.float64), -1.0, 1.0)
    if query.min_score is not None:
        allowed = allowed & (similarity >= query.min_score)
    similarity, ids = similarity[allowed], block.ids[allowed]
    scores = similarity
    if query.ranking is not None:
        asked_us = microseconds(query.asked_at) if query.asked_at else now_us
        age_days = (asked_us - block.created_us[allowed]) / _DAY_US
        scores = query.ranking.blend(similarity, age_days, block.importance[allowed].astype(np.float64))
    if query.after is not None:
        last = query.after.stored_id.encode()
        # The last result itself never comes again, should its score be computed a little lower than before.
        later = ((scores < query.after.score) & (ids != last)) | ((scores == query.after.score) & (ids > last))
        ids, scores, similarity = ids[later], scores[later], similarity[later]
    return _best(ids, scores, similarity, query.limit)


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

    def get(self, namespace_id: str) -> tuple[int, VectorBlock] | None:
        """Return the version and block remembered for a namespace."""
        return self._entries.get(namespace_id)

    def put(self, namespace_id: str, version: int, block: VectorBlock) -> None:
        """Remember a block, and forget others until all fit; one that is larger than the cache is not kept."""
        self.drop(namespace_id)
        if block.nbytes <= self._entries.maxsize:
            self._entries[namespace_id] = (version, block)

    def drop(self, namespace_id: str) -> None:
        """Forget a namespace."""
        self._entries.pop(namespace_id, None)
