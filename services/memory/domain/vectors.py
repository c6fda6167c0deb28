"""Vectors, and the spaces in which they can be compared."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float32]
"""A point in the embedding space: one dimension, float32, of unit length."""


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
    if not np.isfinite(vector).all():
        raise ValueError("every component has to be finite")
    # Scaled first, so that squares of very large or very small components neither overflow nor vanish.
    largest = float(np.abs(vector).max())
    if largest == 0.0:
        raise ValueError("a vector of length zero has no direction")
    vector = vector / largest
    return (vector / math.sqrt(float(vector @ vector))).astype(np.float32)
