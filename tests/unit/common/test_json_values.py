"""JSON texts as messages: no number is rounded on its way."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.grpc.json_values import from_struct, parse_exact, to_struct

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(max_size=3), NUMBERS | st.text(max_size=3), max_size=3))
def test_what_a_struct_carries_is_exact_or_text(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    carried = from_struct("metadata", to_struct(parse_exact(text)), exact=True)
    for name, value in document.items():
        number = isinstance(value, int | float) and isinstance(carried[name], str)
        assert carried[name] == (json.dumps(value) if number else value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("123456789012345678901234", "123456789012345678901234"),
        ("-9007199254740993", "-9007199254740993"),
        ("9007199254740992", 2**53),
        ("1e300", "1e300"),
        ("1e999", "1e999"),
        ("1.5e3", 1500.0),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
    ],
)
def test_numbers_that_would_be_rounded_become_text(text: str, value: object) -> None:
    assert parse_exact(f"[{text}]") == [value]
