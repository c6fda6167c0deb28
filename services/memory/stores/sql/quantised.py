"""Vectors as one byte a component, and how far what is computed with them can be from the truth."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

ROW_BYTES: Final = 4 + 4
"""Bytes of a row beside its components."""

_LARGEST: Final = 127
_ROWS_AT_ONCE: Final = 1024
"""Rows that are turned to floats together: they stay in the processor's cache while they are multiplied."""
_LENGTHS: Final = (1e-3, 1e3)
"""Of vectors that are quantised. Those of the service have length 1; others may have been written by something else."""


@dataclass(frozen=True, slots=True)
class QuantisedVectors:
    """Rows of a matrix as multiples of a step for each row."""

    codes: npt.NDArray[np.int8]
    steps: npt.NDArray[np.float32]
    errors: npt.NDArray[np.float32]
    """How far the product of a row with a vector of length 1 may be from that of the row it stands for, at most."""


def quantised(matrix: npt.NDArray[np.float32]) -> QuantisedVectors:
    """Return finite vectors as bytes; the error of one that cannot be is infinite."""
    rows, dimension = matrix.shape
    codes = np.empty((rows, dimension), dtype=np.int8)
    steps = np.empty(rows, dtype=np.float32)
    errors = np.empty(rows, dtype=np.float32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        _quantise(matrix[part], codes[part], steps[part], errors[part])
    return QuantisedVectors(codes, steps, errors)


def _quantise(
    exact: npt.NDArray[np.float32],
    codes: npt.NDArray[np.int8],
    steps: npt.NDArray[np.float32],
    errors: npt.NDArray[np.float32],
) -> None:
    dimension = exact.shape[1]
    with np.errstate(over="ignore"):
        lengths = _lengths(exact)
    usable = (lengths > _LENGTHS[0]) & (lengths < _LENGTHS[1])
    if not usable.all():
        exact = np.where(usable[:, None], exact, np.float32(0))
    np.maximum(exact.max(axis=1), -exact.min(axis=1), out=steps)
    steps /= np.float32(_LARGEST)
    steps[~usable] = 1.0
    rest = exact / steps[:, None]
    np.rint(rest, out=rest)
    codes[:] = rest
    np.multiply(rest, steps[:, None], out=rest)
    np.subtract(exact, rest, out=rest)
    # By Cauchy and Schwarz the products differ by no more than the length of the difference. Beside that, all of this
    # and both products are sums of float32, each off by no more than a unit in the last place for every component.
    rounding = (dimension + 8) * 2.0**-23
    errors[:] = np.nextafter(_lengths(rest) * (1 + rounding) + 3 * rounding * lengths, np.float32(np.inf))
    errors[~usable] = np.inf


def _lengths(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    result: npt.NDArray[np.float32] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return result


def reaches(
    vectors: QuantisedVectors, query: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return between which cosine similarities each row's is: the lowest and the highest, from -1 to 1."""
    codes, rows = vectors.codes, len(vectors.codes)
    query = query.astype(np.float32, copy=False)
    products = np.empty(rows, dtype=np.float32)
    floats = np.empty((min(rows, _ROWS_AT_ONCE), codes.shape[1]), dtype=np.float32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        end = min(rows, start + _ROWS_AT_ONCE)
        some = floats[: end - start]
        np.copyto(some, codes[start:end])
        np.dot(some, query, out=products[start:end])
    products *= vectors.steps
    length = float(np.linalg.norm(query.astype(np.float64)))
    errors = vectors.errors * np.nextafter(np.float32(length), np.float32(np.inf))
    return np.clip(products - errors, -1.0, 1.0), np.clip(products + errors, -1.0, 1.0)
