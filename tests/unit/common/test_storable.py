"""Texts that cannot be stored lose only what cannot be."""

from hypothesis import given
from hypothesis import strategies as st

from services.common.storable import storable, storable_json

ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=20)
STORABLE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def test_the_null_character_and_lone_surrogates_are_replaced() -> None:
    assert storable("a\0b\ud800c") == "a\ufffdb\ufffdc"


@given(ANY_TEXT)
def test_every_text_becomes_storable(text: str) -> None:
    kept = storable(text)
    assert "\0" not in kept.encode().decode()
    assert len(kept) == len(text)


@given(STORABLE)
def test_storable_texts_stay_as_they_are(text: str) -> None:
    assert storable(text) == text


def test_json_is_replaced_wherever_a_text_stands() -> None:
    assert storable_json({"a\0": ["b\0", {"c": "\ud800", "n": 1}, None, True]}) == {
        "a\ufffd": ["b\ufffd", {"c": "\ufffd", "n": 1}, None, True]
    }
