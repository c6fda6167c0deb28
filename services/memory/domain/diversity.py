"""Results that differ from each other: maximal marginal relevance."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def diversified(
    vectors: npt.NDArray[np.float32], scores: Sequence[float], diversity: float, count: int
) -> Sequence[int]:
    """Return the positions of the first `count` results in the order of maximal marginal relevance.

    Each one chosen has the greatest (1 - diversity) * score - diversity * similarity to the most similar one chosen
    before it; among equal ones the first is chosen. So the choice of fewer is the beginning of the choice of more.

    Args:
        vectors: One row of unit length for each result, best first.
        scores: The score of each result.
        diversity: From 0 (by score alone) to 1 (by difference alone).
        count: How many to choose; all when there are fewer.
    """
    relevance = (1.0 - diversity) * np.asarray(scores, dtype=np.float64)
    if not len(relevance):
        return []
    # The first one has nothing to differ from: it is the best, whatever the diversity.
    order = [0]
    nearest = np.full(len(relevance), -np.inf)
    waiting = np.ones(len(relevance), dtype=np.bool_)
    waiting[0] = False
    while len(order) < min(count, len(relevance)):
        nearest = np.maximum(nearest, (vectors @ vectors[order[-1]]).astype(np.float64))
        marginal = np.where(waiting, relevance - diversity * nearest, -np.inf)
        chosen = int(marginal.argmax())
        order.append(chosen)
        waiting[chosen] = False
    return order
