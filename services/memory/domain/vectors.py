"""Vectors, and the spaces in which they can be compared."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from services.common.errors import FailedPrecondition

Vector: TypeAlias = npt.NDArray[np.float32]
"""A point in the embedding space: one dimension, float32, of unit length."""


_PLAIN_SQUARES = (1e-200, 1e200)
"""Sums of squares between which none that counts has vanished, and none overflowed."""


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """What makes vectors comparable."""

    model: str
    dimension: int


def unit_vector(values: npt.ArrayLike) -> Vector:
    """Return the values as a float32 vector of unit length.

    Raises:
        ValueError: not one dimension, a component that is not finite, or a length of zero.
    """
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not vector.size:
        raise ValueError("a vector has one dimension and at least one component")
    # Not by `@`, which would look for overflows and warn of them.
    squares = float(np.vdot(vector, vector))
    if _PLAIN_SQUARES[0] < squares < _PLAIN_SQUARES[1]:
        return (vector / math.sqrt(squares)).astype(np.float32)
    if not np.isfinite(vector).all():
        raise ValueError("every component has to be finite")
    # Scaled first, so that squares of very large or very small components neither overflow nor vanish.
    largest = float(np.abs(vector).max())
    if largest == 0.0:
        raise ValueError("a vector of length zero has no direction")
    vector = vector / largest
    return (vector / math.sqrt(float(vector @ vector))).astype(np.float32)


def embedding_mismatch_of_index(index: str, expected: EmbeddingSpace, actual: EmbeddingSpace) -> FailedPrecondition:
    """Return the refusal of another embedding space for an index that has vectors."""
    return FailedPrecondition(
        f'index {index} holds vectors of "{expected.model}" with {expected.dimension} components, not "{actual.model}" '
        f"with {actual.dimension}: name another index for them, create it (ProvisionMemoryBackend), export the records "
        "and import them there to be embedded again",
        reason="EMBEDDING_MISMATCH",
        metadata={
            "expected_model": expected.model,
            "expected_dimension": str(expected.dimension),
            "actual_model": actual.model,
            "actual_dimension": str(actual.dimension),
        },
    )


def embedding_mismatch(expected: EmbeddingSpace, model: str, dimension: int) -> FailedPrecondition:
    """Return the refusal of vectors that do not belong into a namespace's space.

    An empty model is one not named, a dimension of 0 one not known: there are only texts yet.
    """
    given = (f'vectors of "{model}"' if model else "vectors") + (f" with {dimension} components" if dimension else "")
    return FailedPrecondition(
        f'this namespace holds vectors of "{expected.model}" with {expected.dimension} components, not {given}; use '
        "that model, or change the namespace to another one: export its records, clear it, and import them again to "
        "be embedded again",
        reason="EMBEDDING_MISMATCH",
        metadata={
            "expected_model": expected.model,
            "expected_dimension": str(expected.dimension),
            "actual_model": model,
            "actual_dimension": str(dimension),
        },
    )
