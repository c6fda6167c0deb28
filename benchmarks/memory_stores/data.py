"""What is saved and looked for."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Matrix: TypeAlias = npt.NDArray[np.float32]

NAMESPACES = 50
K = 10
BATCH = 1000


def text_of(namespace: int, row: int) -> str:
    """Return the content of a record."""
    return f"memory {row} of crew {namespace}"


def dataset(rows: int, dimension: int) -> list[Matrix]:
    """Return the vectors of each namespace: unit length, around a few centres, the same in every process."""
    random = np.random.default_rng(42)
    centres = random.normal(size=(20, dimension))
    return [_clustered(random, centres, rows // NAMESPACES) for _ in range(NAMESPACES)]


def one_namespace(rows: int, dimension: int) -> Matrix:
    """Return the vectors of a large namespace."""
    random = np.random.default_rng(43)
    return _clustered(random, random.normal(size=(20, dimension)), rows)


def near(random: np.random.Generator, matrix: Matrix) -> Matrix:
    """Return a vector that is like one of the rows."""
    row = matrix[int(random.integers(len(matrix)))]
    query = row + 0.3 * random.normal(size=row.shape) / np.sqrt(len(row))
    result: Matrix = (query / np.linalg.norm(query)).astype(np.float32)
    return result


def exact(matrix: Matrix, query: Matrix) -> list[str]:
    """Return the ids of the nearest rows."""
    scores = matrix @ query
    nearest = np.argpartition(-scores, K)[:K]
    return [f"r{row}" for row in nearest[np.argsort(-scores[nearest])]]


def _clustered(random: np.random.Generator, centres: npt.NDArray[np.float64], count: int) -> Matrix:
    points = centres[random.integers(0, len(centres), count)] + 0.7 * random.normal(size=(count, centres.shape[1]))
    result: Matrix = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return result
