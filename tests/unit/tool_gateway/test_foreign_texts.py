"""What sources say is bounded and can be stored, whatever they say."""

import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.storable import storable_json
from services.orchestrator.tool_gateway.adapters.foreign import (
    ForeignTextError,
    parse_json,
    parse_object,
    shown,
)

ANY_TEXT = st.text(st.characters(codec=None, categories=None))
# JSON writes a character and its two halves alike.
_HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
JSON_TEXT = ANY_TEXT.filter(lambda text: not _HALVES.search(text))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | JSON_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(JSON_TEXT, inner),
    max_leaves=20,
)


@given(ANY_TEXT, st.integers(1, 50))
def test_a_shown_text_hides_nothing_and_is_bounded(text: str, limit: int) -> None:
    kept = shown(text, limit)
    assert len(kept.encode()) <= limit
    assert not {character for character in kept if unicodedata.category(character) in ("Cc", "Cs")} - set("\t\n\r")
    assert not set(kept) & set("\u200b\u202e\u2066\ufeff\U000e0041")


@given(VALUES)
def test_json_means_what_was_sent(value: Any) -> None:
    # Texts that differ only in what cannot be stored may meet in one key; the last one counts, as in JSON.
    assert parse_json(json.dumps(value), "it") == storable_json(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("NaN", "NaN"),
        ("1e999", "too large"),
        ("9" * 5000, "digits"),
        ("[" * 100_000, "nested deeper"),
        ("[" + "1," * 300_000 + "1]", "values"),
        ('"' + "x" * (1024 * 1024) + '"', "larger than"),
    ],
)
def test_what_is_out_of_bounds_is_refused_in_words(text: str, problem: str) -> None:
    with pytest.raises(ForeignTextError, match=problem) as refused:
        parse_json(text, "the result")
    assert str(refused.value).startswith("the result ")
    assert "xxx" not in str(refused.value)


@pytest.mark.parametrize("text", ["[]", "null", '"text"', "1"])
def test_other_values_are_no_objects(text: str) -> None:
    with pytest.raises(ForeignTextError, match="not a JSON object"):
        parse_object(text, "the schema")
