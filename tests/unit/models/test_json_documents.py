"""JSON of upstreams is read in every encoding they send it in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.models.providers.json_documents import read_json, write_json

_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_the_encoding_is_found_out(encoding: str) -> None:
    assert read_json(json.dumps({"a": "\u00e9"}, ensure_ascii=False).encode(encoding)) == {"a": "\u00e9"}


def test_bytes_of_another_encoding_cost_a_letter_and_not_the_document() -> None:
    assert read_json(b'{"a": "caf\xe9 au lait"}') == {"a": "caf\ufffd au lait"}


@pytest.mark.parametrize("text", [b"", b"\xff", b"{", b'{"a": 1}{"a": 2}', "", "hello"])
def test_what_is_none_is_refused(text: str | bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        read_json(text)


@given(_DOCUMENTS)
def test_what_is_written_is_read(document: object) -> None:
    assert read_json(write_json({"a": document})) == {"a": document}


@given(st.binary(max_size=50))
def test_nothing_else_is_raised(data: bytes) -> None:
    try:
        read_json(data)
    except ValueError:
        return
