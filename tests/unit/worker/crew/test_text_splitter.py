from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.worker.crew.text_splitter import split_text

TEXTS = st.text(alphabet=st.sampled_from("ab. \n\u00e9\u20ac\U0001f600"), max_size=200)


@given(st.one_of(TEXTS, st.text(max_size=200)), st.integers(4, 40))
def test_the_parts_of_a_text_are_short_and_make_the_text_again(text: str, max_bytes: int) -> None:
    parts = list(split_text(text, max_bytes))
    assert "".join(parts) == text
    assert all(0 < len(part.encode()) <= max_bytes for part in parts)
    assert all(len(part.encode()) >= (max_bytes - 4) // 2 for part in parts[:-1])


def test_a_short_text_is_one_part_and_an_empty_one_none() -> None:
    assert list(split_text("Ships float.\n\nMasts are tall.")) == ["Ships float.\n\nMasts are tall."]
    assert list(split_text("")) == []


def test_a_part_ends_with_the_greatest_part_that_fits() -> None:
    assert list(split_text("One two.\n\nThree. Four", 16)) == ["One two.\n\n", "Three. Four"]
    assert list(split_text("One two three. Four\nfive", 20)) == ["One two three. Four\n", "five"]
    assert list(split_text("One two three. Four five", 20)) == ["One two three. ", "Four five"]
    assert list(split_text("One two three four five", 20)) == ["One two three four ", "five"]
    assert list(split_text("Onetwothree", 4)) == ["Onet", "woth", "ree"]


def test_half_surrogates_are_replaced() -> None:
    assert list(split_text("a\ud800b")) == ["a?b"]
