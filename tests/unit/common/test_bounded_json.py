"""JSON from outside: the same values as ever, within bounds, and never in the way of other work."""

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.bounded_json import MAX_VALUES, loads_bounded, parse_json

documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


@given(documents, st.booleans())
def test_documents_are_read_as_they_were_written(document: Any, ascii_only: bool) -> None:
    assert loads_bounded(json.dumps(document, ensure_ascii=ascii_only).encode()) == document


@given(st.binary())
def test_bytes_are_a_document_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        loads_bounded(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON"),
        (b"[" * 1_000_000, "deeper than 100"),
        (b'{"a":' * 1_000_000, "deeper than 100"),
        (b"[NaN]", "NaN and Infinity"),
        (b"-Infinity", "NaN and Infinity"),
        (b"1e999", "too large"),
        (b"9" * 401, "more than 400 digits"),
        (b'"secret', "not valid JSON at line 1"),
    ],
)
def test_what_is_refused_is_named_without_its_content(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        loads_bounded(data)
    assert "secret" not in str(refused.value)


async def test_a_document_of_too_many_values_is_refused() -> None:
    with pytest.raises(ValueError, match=f"more than {MAX_VALUES} values"):
        await parse_json(b"[" + b"1," * MAX_VALUES + b"1]")


async def test_texts_and_keys_pass_through_the_given_function() -> None:
    assert await parse_json(b'{"a":["b",{"c":1}]}', str.upper) == {"A": ["B", {"C": 1}]}


async def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    assert await parse_json(b'"a\xff"') == "a\ufffd"
    assert math.isclose(await parse_json(b"1.5"), 1.5)
