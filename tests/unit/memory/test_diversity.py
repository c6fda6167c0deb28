"""Maximal marginal relevance against its plain definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.memory.domain.diversity import diversified
from services.memory.domain.vectors import unit_vector

VECTORS = st.lists(
    st.tuples(*[st.integers(-3, 3)] * 3).filter(any).map(unit_vector),
    min_size=1,
    max_size=8,
)


@given(VECTORS, st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(1, 10))
def test_each_choice_is_the_best_of_those_left(vectors: list[np.ndarray], diversity: float, count: int) -> None:
    scores = [float(vector[0]) for vector in vectors]
    best_first = sorted(range(len(vectors)), key=lambda place: -scores[place])
    vectors, scores = [vectors[place] for place in best_first], [scores[place] for place in best_first]
    order = diversified(np.stack(vectors), scores, diversity, count)
    assert order[0] == 0
    assert len(set(order)) == len(order) == min(count, len(vectors))

    def marginal(place: int, chosen: list[int]) -> float:
        closest = max(float(vectors[place] @ vectors[other]) for other in chosen)
        return (1 - diversity) * scores[place] - diversity * closest

    for taken in range(1, len(order)):
        chosen = list(order[:taken])
        best = max(marginal(place, chosen) for place in range(len(vectors)) if place not in chosen)
        assert marginal(order[taken], chosen) >= best - 1e-6


@given(VECTORS, st.sampled_from([0.0, 0.5, 1.0]))
def test_fewer_are_the_beginning_of_more(vectors: list[np.ndarray], diversity: float) -> None:
    scores = [float(vector[0]) for vector in vectors]
    everything = list(diversified(np.stack(vectors), scores, diversity, len(vectors)))
    for count in range(1, len(vectors)):
        assert list(diversified(np.stack(vectors), scores, diversity, count)) == everything[:count]


def test_copies_come_last_and_without_diversity_the_score_decides() -> None:
    vectors = np.stack([unit_vector(v) for v in [(1, 0.1, 0), (1, 0.1, 0), (1, 0, 2), (0.5, 1, 0)]])
    scores = [0.9, 0.9, 0.85, 0.6]
    assert diversified(vectors, scores, 0.0, 4) == [0, 1, 2, 3]
    assert diversified(vectors, scores, 0.5, 4)[-1] == 1
    assert diversified(np.empty((0, 3), np.float32), [], 0.5, 3) == []
