import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.text_vectors import embed_text


def cosine(left: str, right: str) -> float:
    return sum(a * b for a, b in zip(embed_text(left, 256), embed_text(right, 256), strict=True))


@given(st.text(), st.integers(min_value=1, max_value=64))
def test_every_text_has_a_unit_vector_of_the_asked_size(text: str, dimensions: int) -> None:
    vector = embed_text(text, dimensions)
    assert len(vector) == dimensions
    assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-9)


def test_a_text_is_nearer_to_its_paraphrase_than_to_another_subject() -> None:
    text = "the harbour master closed the port because of the storm"
    near = "because of a storm the port was closed by the harbour master"
    far = "quarterly revenue of software vendors grew by nine percent"
    assert cosine(text, near) > 0.7
    assert cosine(text, far) < 0.4


def test_inflected_words_stay_near() -> None:
    assert cosine("sailing ships", "sailed ship") > cosine("sailing ships", "cooking pots") + 0.2


def test_vectors_are_the_same_in_every_process() -> None:
    vector = embed_text("anchor", 8)
    assert vector == pytest.approx([0.0, -0.265716, 0.0, -0.75919, 0.0, -0.265716, 0.531433, 0.0], abs=1e-6)
