import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.common.pagination import cut_page, decode_page_token, encode_page_token, page_size

scalars = st.one_of(st.text(), st.integers(), st.none(), st.booleans())
filters = st.dictionaries(st.text(max_size=8), scalars, max_size=4)


@given(st.text(max_size=20), filters, st.lists(scalars, max_size=4))
def test_a_token_gives_back_the_key_it_was_made_of(listing: str, chosen: dict[str, object], key: list[object]) -> None:
    assert decode_page_token(encode_page_token(listing, chosen, key), listing, chosen) == key


@given(st.text(max_size=200))
def test_any_other_text_is_refused_with_the_field_named(token: str) -> None:
    if token == "":
        assert decode_page_token(token, "crews", {}) is None
        return
    with pytest.raises(InvalidArgument) as refused:
        decode_page_token(token, "crews", {})
    assert refused.value.reason == "INVALID_PAGE_TOKEN"
    assert refused.value.violations[0].field == "page_token"


@pytest.mark.parametrize(
    ("listing", "chosen"), [("executions", {"crew": "a"}), ("crews", {"crew": "b"}), ("crews", {})]
)
def test_a_token_of_another_listing_or_filter_is_refused(listing: str, chosen: dict[str, object]) -> None:
    token = encode_page_token("crews", {"crew": "a"}, [1])
    with pytest.raises(InvalidArgument):
        decode_page_token(token, listing, chosen)


@pytest.mark.parametrize(("requested", "expected"), [(0, 50), (1, 1), (1000, 1000), (5000, 1000)])
def test_page_sizes_have_a_default_and_a_maximum(requested: int, expected: int) -> None:
    assert page_size(requested) == expected


@given(st.sets(st.integers()), st.integers(1, 10))
def test_pages_give_every_row_once_and_the_last_has_no_token(stored: set[int], size: int) -> None:
    rows, token = sorted(stored), ""
    seen: list[int] = []
    for _ in range(len(rows) // size + 1):
        key = decode_page_token(token, "numbers", {})
        found = [row for row in rows if key is None or row > key[0]][: size + 1]
        page, token = cut_page(found, size, "numbers", {}, lambda row: [row])
        assert len(page) <= size
        seen += page
        if not token:
            break
    assert (seen, token) == (rows, "")
