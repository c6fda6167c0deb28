"""Words of texts, and how searches for words rank them."""

import importlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.memory.domain.words import MOST_WORDS, Term, TermWeights, WordedText, ranked_by_words, terms_of, words_of

MIGRATION: Any = importlib.import_module("services.memory.migrations.versions.0007_words")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Order AB-1234/77, now!", ["order", "ab", "1234", "77", "now"]),
        ("snake_case x", ["snake_case", "x"]),
        ("Zürich ÉTÉ Straße", ["zurich", "ete", "strasse"]),
        ("Ελλάδα Ёлка", ["ελλαδα", "елка"]),
        ("東京タワー 2", ["東", "京", "タ", "ワ", "ー", "2"]),
        ("서울 시", ["서울", "시"]),
        ("'quoted' \"x\" \\ \U0001f600", ["quoted", "x"]),
        ("", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_long_texts_are_known_by_their_beginning() -> None:
    assert len(words_of("ab " * 20_000)) == MOST_WORDS
    assert words_of("x" * 500) == ["x" * 100]
    assert 0 < sum(map(len, words_of(("語" * 99 + "x " + "y" * 90 + " ") * 9000))) <= 150_000


def test_what_is_written_without_spaces_is_looked_for_in_a_row_too() -> None:
    assert terms_of("find AB-17 ab") == [("find",), ("ab",), ("17",), ("ab", "17")]
    assert terms_of("?!") == []
    assert len(terms_of(" ".join(f"w{number}" for number in range(100)))) == 64


@given(st.text(max_size=40))
def test_the_migration_and_the_service_know_the_same_words(text: str) -> None:
    words = words_of(text)
    assert MIGRATION._words(text) == words
    assert all(word.isalnum() or set("_") & set(word) or ord(max(word)) > 127 for word in words)
    assert not set("'\"\\ :\0") & set("".join(words))


def _texts(*texts: str) -> list[WordedText]:
    return [WordedText(f"{number:02}", number, text) for number, text in enumerate(texts)]


def test_the_exact_number_comes_first_and_rare_words_count_more() -> None:
    texts = _texts("the order 17 of AB", "the order AB-17", "the order", "the weather", "the storm")
    ranked = ranked_by_words(terms_of("order AB-17"), texts)
    assert [stored_id for stored_id, _ in ranked] == ["01", "00", "02"]
    assert ranked[0][1] == pytest.approx(1.0)
    # Equal ones: the newest first.
    assert [stored_id for stored_id, _ in ranked_by_words(terms_of("the"), texts)] == ["04", "03", "02", "01", "00"]
    rare = ranked_by_words(terms_of("the storm"), texts)
    assert rare[0][0] == "04"


def test_words_that_most_records_have_are_passed_over() -> None:
    counts: dict[Term, int] = {("the",): 900, ("storm",): 3}
    assert list(TermWeights.of(counts, 1000).weights) == [("storm",)]
    assert list(TermWeights.of({("the",): 900, ("none",): 0}, 1000).weights) == [("the",)]
    assert TermWeights.of({("none",): 0}, 1000).weights == {}
