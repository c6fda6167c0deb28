"""What is held in memory of a namespace: its rows as arrays that grow in place."""

import threading
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from services.memory.domain.filters import Filter
from services.memory.domain.moments import microseconds
from services.memory.domain.scopes import within_scope
from services.memory.stores.sql import quantised
from services.memory.stores.sql.quantised import QuantisedVectors

NEVER_US = np.iinfo(np.int64).max
"""The expiry of rows that do not expire."""

ROW_BYTES = 64 + 8 + 8 + 4 + 1 + 4 + 1
"""Bytes of a row beside its vector."""

_COLUMNS = 7
"""Those of a block that is not quantised."""
_SCOPES = 6
"""Which of them has the scopes' codes."""

_FEW = 32
"""Ids that are looked for one by one, and not by sorting."""

Mask: TypeAlias = npt.NDArray[np.bool_]
_Array: TypeAlias = npt.NDArray[Any]


class _Room:
    """Arrays of one capacity, of which the first rows are used. Rows are only ever added behind those.

    Threads may add at once: one whose search was cancelled goes on beside the next one's.
    """

    __slots__ = ("_taking", "arrays", "used")

    def __init__(self, columns: Sequence[_Array], rows: int) -> None:
        """Copy columns into room for so many rows. What is not used of it takes no memory yet."""
        self._taking = threading.Lock()
        self.used = len(columns[0])
        self.arrays = [np.empty((rows, *column.shape[1:]), dtype=column.dtype) for column in columns]
        for array, column in zip(self.arrays, columns, strict=True):
            array[: self.used] = column

    def take(self, begin: int, columns: Sequence[_Array]) -> bool:
        """Add rows behind the first `begin`; False when others are there already, or they do not fit."""
        end = begin + len(columns[0])
        with self._taking:
            if self.used != begin or end > len(self.arrays[0]):
                return False
            self.used = end
        for array, column in zip(self.arrays, columns, strict=True):
            array[begin:end] = column
        return True


class VectorBlock:
    """Rows of a namespace as arrays of equal length, of which some may be gone: see `living`.

    A block never changes: `updated` makes a newer one, which shares the arrays as far as it can. The vectors of a
    quantised one are bytes, which tell between which numbers a similarity is: see `quantised`.
    """

    def __init__(self, room: _Room, rows: int, living: Mask, scopes: tuple[str, ...]) -> None:
        """`living` says of the first `rows` of the room which are there; codes stand for the scopes."""
        self._room = room
        self.ids: npt.NDArray[np.bytes_]
        self._vectors: _Array
        """Those of a quantised block are bytes, which nothing but `quantised` understands."""
        self.created_us: npt.NDArray[np.int64]
        self.expires_us: npt.NDArray[np.int64]
        self.importance: npt.NDArray[np.float32]
        self.private: Mask
        self.scope_codes: npt.NDArray[np.int32]
        (
            self.ids,
            self._vectors,
            self.created_us,
            self.expires_us,
            self.importance,
            self.private,
            self.scope_codes,
            *more,
        ) = (array[:rows] for array in room.arrays)
        self.quantised: QuantisedVectors | None = None
        """The vectors of a quantised block."""
        if more:
            self.quantised = QuantisedVectors(self._vectors, *more)
        self._expire = bool((self.expires_us != NEVER_US).any())
        self._some_private = bool(self.private.any())
        self.living = living
        self.scopes = scopes

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
        scopes: Sequence[str] = (),
    ) -> Self:
        """Build the arrays from columns; an empty one stands for rows that have nothing there.

        Raises:
            ValueError: a vector has another dimension, or a column another length.
        """
        count = len(ids)
        for given in (created_us, expires_us, importance, private, scopes):
            # NumPy would repeat the value of a shorter one, or leave out the last of a longer one.
            if given and len(given) != count:
                raise ValueError(f"a column has {len(given)} values for {count} rows")
        scope_codes, scope_texts = _encoded(scopes, count)
        columns: list[_Array] = [
            np.array([stored_id.encode() for stored_id in ids], dtype="S64"),
            np.frombuffer(b"".join(embeddings), dtype="<f4").reshape(count, dimension),
            np.array(created_us, dtype=np.int64),
            _expiries(expires_us, count),
            np.fromiter(importance or repeat(0.0, count), np.float32, count),
            np.fromiter(private or repeat(False, count), np.bool_, count),
            scope_codes,
        ]
        return cls(_Room(columns, count), count, np.ones(count, dtype=np.bool_), scope_texts)

    def with_room(self, rows: int) -> "VectorBlock":
        """Return the block in arrays of its own, with room for so many rows in all and some more."""
        columns = [array[: len(self)] for array in self._room.arrays]
        return VectorBlock(_Room(columns, _roomy(max(rows, len(self)))), len(self), self.living, self.scopes)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, near enough."""
        texts = sum(len(text) + 64 for text in self.scopes)
        steps = quantised.ROW_BYTES * len(self) if self.quantised else 0
        return self._vectors.nbytes + steps + ROW_BYTES * len(self) + texts

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return int(self._vectors.shape[1])

    @property
    def components(self) -> int:
        """Components of all vectors."""
        return self._vectors.size

    @property
    def matrix(self) -> npt.NDArray[np.float32]:
        """The vectors of a block that is not quantised."""
        assert self.quantised is None
        return self._vectors

    def as_bytes(self) -> "VectorBlock":
        """Return the block with quantised vectors, in arrays of its own."""
        if self.quantised:
            return self
        ids, matrix, *others = (array[: len(self)] for array in self._room.arrays)
        vectors = quantised.quantised(matrix)
        columns = [ids, vectors.codes, *others, vectors.steps, vectors.errors]
        return VectorBlock(_Room(columns, len(self)), len(self), self.living, self.scopes)

    def with_vectors(self, positions: npt.NDArray[np.intp], matrix: npt.NDArray[np.float32]) -> "VectorBlock":
        """Return some of the rows with these vectors."""
        ids, _, *others = (array[: len(self)][positions] for array in self._room.arrays[:_COLUMNS])
        return VectorBlock(
            _Room([ids, matrix, *others], len(ids)), len(ids), np.ones(len(ids), dtype=np.bool_), self.scopes
        )

    def updated(self, newer: "VectorBlock", removed: Sequence[str] = ()) -> "VectorBlock":
        """Return the block without removed rows, with rows of the same id replaced and the others of `newer` added.

        `newer` has living rows only. Of several blocks made from one block, the first shares its arrays.
        """
        doomed = np.array([stored_id.encode() for stored_id in removed], dtype="S64")
        living = self.living.copy()
        living[self.positions(np.concatenate([doomed, newer.ids]))] = False
        if 4 * np.count_nonzero(living) < 3 * len(self):
            return self._of_rows(living).extended(newer)
        return VectorBlock(self._room, len(self), living, self.scopes).extended(newer)

    def compacted(self) -> "VectorBlock":
        """Return the block without rows and scopes that are gone, in arrays of its own."""
        return self._of_rows(self.living)

    def positions(self, ids: npt.NDArray[np.bytes_]) -> npt.NDArray[np.intp]:
        """Return where the rows of these ids are, in no order; ids that are not there are left out."""
        if not len(ids) or not len(self):
            return np.empty(0, dtype=np.intp)
        # Eight characters of an id are compared at once; what they have in common by chance is compared in full.
        own, wanted = _beginnings(self.ids), _beginnings(np.ascontiguousarray(ids))
        if len(ids) <= _FEW:
            near = np.unique(np.concatenate([np.flatnonzero(own == beginning) for beginning in wanted]))
        else:
            near = np.flatnonzero(np.isin(own, wanted))
        return near[np.isin(self.ids[near], ids)]

    def _of_rows(self, living: Mask) -> "VectorBlock":
        columns = [array[: len(self)][living] for array in self._room.arrays]
        used, codes = np.unique(columns[_SCOPES], return_inverse=True)
        scopes = tuple(self.scopes[code] for code in used.tolist())
        columns[_SCOPES] = codes.astype(np.int32)
        rows = len(codes)
        return VectorBlock(_Room(columns, _roomy(rows)), rows, np.ones(rows, np.bool_), scopes)

    def extended(self, newer: "VectorBlock") -> "VectorBlock":
        """Return the block with the rows of another, none of which it has."""
        if not len(newer):
            return self
        if self.quantised:
            newer = newer.as_bytes()
        scopes, scope_codes = _recoded(self.scopes, newer.scopes, newer.scope_codes)
        columns: list[_Array] = [
            newer.ids,
            newer._vectors,  # noqa: SLF001 - of its own class
            newer.created_us,
            newer.expires_us,
            newer.importance,
            newer.private,
            scope_codes,
        ]
        if newer.quantised:
            columns += [newer.quantised.steps, newer.quantised.errors]
        rows = len(self) + len(newer)
        room = self._room
        if not room.take(len(self), columns):
            room = _Room([array[: len(self)] for array in room.arrays], _roomy(rows))
            room.take(len(self), columns)
        return VectorBlock(room, rows, np.concatenate([self.living, newer.living]), scopes)

    def allowed(self, chosen: Filter, now_us: int, *, unified: bool) -> Mask:
        """Return a mask of rows that are alive and pass the part of the filter that these arrays can decide."""
        mask: Mask = self.living.copy()
        if self._expire:
            mask &= self.expires_us > now_us
        if chosen.created_before is not None:
            mask &= self.created_us < microseconds(chosen.created_before)
        if chosen.created_after is not None:
            mask &= self.created_us >= microseconds(chosen.created_after)
        if not unified:
            return mask
        # Whose the private ones are is not remembered.
        if self._some_private and not chosen.include_private and not chosen.owner:
            mask &= ~self.private
        if chosen.scope_prefix:
            mask &= _among(self.scope_codes, [within_scope(text, chosen.scope_prefix) for text in self.scopes])
        return mask


def _expiries(moments: Sequence[int | None], count: int) -> npt.NDArray[np.int64]:
    if moments.count(None) == len(moments):
        return np.full(count, NEVER_US, dtype=np.int64)
    return np.fromiter((NEVER_US if moment is None else moment for moment in moments), np.int64, count)


def _encoded(values: Sequence[str], count: int) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Return a column of few distinct texts as a code for each row, and what the codes stand for."""
    texts = tuple(dict.fromkeys(values)) or ("",) * min(count, 1)
    if len(texts) <= 1:
        return np.zeros(count, dtype=np.int32), texts
    codes_of = {text: code for code, text in enumerate(texts)}
    return np.fromiter(map(codes_of.__getitem__, values), np.int32, count), texts


def _recoded(
    texts: tuple[str, ...], newer: tuple[str, ...], codes: npt.NDArray[np.int32]
) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    """Return the texts with newer ones added, and codes of the newer ones as codes of all."""
    codes_of = {text: code for code, text in enumerate(texts)}
    recoded = np.array([codes_of.setdefault(text, len(codes_of)) for text in newer], dtype=np.int32)[codes]
    return tuple(codes_of), recoded


def _among(codes: npt.NDArray[np.int32], accepted: Sequence[bool]) -> Mask:
    """Return a mask of rows whose text is accepted, given one for the distinct texts."""
    result: Mask = np.asarray(accepted, dtype=np.bool_)[codes]
    return result


def _beginnings(ids: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint64]:
    result: npt.NDArray[np.uint64] = ids.view(np.uint64).reshape(len(ids), -1)[:, 0]
    return result


def _roomy(rows: int) -> int:
    """Return a capacity that leaves rows to be added: an eighth, so that copies stay rare."""
    return rows + rows // 8 + 64
