"""How a workspace computes scores: measured, as its documentation may be read in more than one way."""

import math

import numpy as np

from services.memory.domain.scores import ScoreFormula, ScoreMeasure
from services.memory.domain.vectors import Vector, unit_vector
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository

_COSINE = 0.8
"""At this cosine all formulas give scores far apart."""
_TOLERANCE = 5e-3
_STEP = 0.1
"""What thresholds differ by from this cosine."""


class ScoreUnknown(Exception):
    """The scores fit no formula that is known; the text shows them."""


async def measure(repository: DatabricksVectorIndexRepository, index: str, owner: Owner) -> ScoreMeasure | None:
    """Return how scores are computed, by a stored row's own vector and a changed one; None without a row to ask for.

    A threshold is asked for between the scores of two other vectors and the changed one's: below it the row has to come
    back, above it not.

    Raises:
        ScoreUnknown: by none of the formulas that are known.
    """
    found = await repository.probes.unit_vector_of(index, owner)
    if found is None:
        return None
    stored_id, vector = found
    scores = []
    for cosine in (1.0, _COSINE):
        score = await repository.probes.score(index, owner, stored_id, turned(vector, cosine))
        if score is None:
            return None
        scores.append((cosine, score))
    for formula in ScoreFormula:
        if all(abs(formula.score(cosine) - score) < _TOLERANCE for cosine, score in scores):
            changed = turned(vector, _COSINE)
            below, above = [
                await repository.probes.score(index, owner, stored_id, changed, formula.score(_COSINE + step))
                for step in (-_STEP, _STEP)
            ]
            return ScoreMeasure(formula, bounds=below is not None and above is None)
    raise ScoreUnknown(", ".join(f"{score:.4f} at the cosine {cosine}" for cosine, score in scores))


def turned(vector: Vector, cosine: float) -> Vector:
    """Return a unit vector that has this cosine with another one, whose length is 1 and which has two components."""
    if cosine == 1.0:
        return vector
    axis = np.zeros(len(vector))
    axis[int(np.argmin(np.abs(vector)))] = 1.0
    across = axis - float(axis @ vector) * vector
    return unit_vector(cosine * vector + math.sqrt(1.0 - cosine**2) * across / np.linalg.norm(across))
