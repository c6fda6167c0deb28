"""Scores of vector stores as cosine similarities."""

import math
from dataclasses import dataclass
from enum import StrEnum


class ScoreFormula(StrEnum):
    """How a vector store computes the score of a row from the distance d of two unit vectors, or their cosine."""

    SQUARED_DISTANCE = "SQUARED_DISTANCE"
    """1 / (1 + d²)"""
    DISTANCE = "DISTANCE"
    """1 / (1 + d)"""
    COSINE = "COSINE"
    """The cosine itself."""
    SHIFTED_COSINE = "SHIFTED_COSINE"
    """(1 + cosine) / 2"""

    @property
    def text(self) -> str:
        """The formula as people write it."""
        return _TEXTS[self]

    def score(self, cosine: float) -> float:
        """Return the score of two unit vectors with this cosine."""
        squared = max(0.0, 2.0 - 2.0 * cosine)
        match self:
            case ScoreFormula.SQUARED_DISTANCE:
                return 1.0 / (1.0 + squared)
            case ScoreFormula.DISTANCE:
                return 1.0 / (1.0 + math.sqrt(squared))
            case ScoreFormula.COSINE:
                return cosine
            case ScoreFormula.SHIFTED_COSINE:
                return (1.0 + cosine) / 2.0

    def cosine(self, score: object) -> float:
        """Return the cosine similarity that a score stands for.

        Raises:
            ValueError: it is not a score by this formula.
        """
        value = float(score) if isinstance(score, int | float) and not isinstance(score, bool) else math.nan
        lowest = -1.0 - _TOLERANCE if self is ScoreFormula.COSINE else -_TOLERANCE
        open_below = self in (ScoreFormula.SQUARED_DISTANCE, ScoreFormula.DISTANCE)
        if not lowest <= value <= 1.0 + _TOLERANCE or (open_below and value <= 0.0):
            raise ValueError(f"{score!r} is not a score")
        return max(-1.0, min(1.0, self._inverse(value)))

    def _inverse(self, score: float) -> float:
        match self:
            case ScoreFormula.SQUARED_DISTANCE:
                return 1.0 - (1.0 / score - 1.0) / 2.0
            case ScoreFormula.DISTANCE:
                return 1.0 - (1.0 / score - 1.0) ** 2 / 2.0
            case ScoreFormula.COSINE:
                return score
            case ScoreFormula.SHIFTED_COSINE:
                return 2.0 * score - 1.0


@dataclass(frozen=True, slots=True)
class ScoreMeasure:
    """How a vector store computes scores, as far as it was measured."""

    formula: ScoreFormula = ScoreFormula.SQUARED_DISTANCE
    """What documents say, until it was measured."""
    bounds: bool = False
    """Whether the store was seen to leave out rows whose score is below a threshold, and those alone."""

    def threshold(self, similarity: float) -> float | None:
        """Return the score below which no row is as similar as this; None where the store cannot be relied on."""
        score = self.formula.score(similarity) - _MARGIN if self.bounds and similarity > -1.0 else 0.0
        # Thresholds of 0 and below mean none.
        return score if score > 0.0 else None


_TOLERANCE = 1e-6
_MARGIN = 1e-4
"""By which a threshold is lower than the score that is wanted: what comes back is compared exactly."""
_TEXTS = {
    ScoreFormula.SQUARED_DISTANCE: "1 / (1 + d²)",
    ScoreFormula.DISTANCE: "1 / (1 + d)",
    ScoreFormula.COSINE: "the cosine similarity",
    ScoreFormula.SHIFTED_COSINE: "(1 + cosine similarity) / 2",
}
