from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.common.paging import Pager, decode_page_token, encode_page_token, page_size, seal_page_tokens
from tests.support.page_tokens import token_with_key

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


@given(
    stored=st.dictionaries(st.integers(0, 10**6), st.integers(0, 60), max_size=60),
    size=st.integers(0, 12),
    max_bytes=st.integers(1, 200),
    large=st.booleans(),
)
async def test_a_pager_gives_every_row_once_in_pages_that_fit(
    stored: dict[int, int], size: int, max_bytes: int, large: bool
) -> None:
    pager = Pager("numbers", key_types=(int,), default=7, maximum=10, max_bytes=max_bytes)
    rows = sorted(stored)

    async def read(after: list[int] | None, limit: int) -> list[int]:
        return [row for row in rows if after is None or row > after[0]][:limit]

    seen: list[int] = []
    token = ""
    for _ in range(len(rows) + 1):
        page = await pager.page(
            size, token, {"of": "all"}, read, lambda row: [row], stored.__getitem__ if large else None
        )
        assert len(page.items) <= min(size or 7, 10)
        if large:
            assert len(page.items) <= 1 or sum(stored[row] for row in page.items) <= max_bytes
        seen += page.items
        token = page.next_page_token
        if not token:
            break
        assert page.items
    assert (seen, token) == (rows, "")


@pytest.mark.parametrize("large", [True, False])
async def test_a_pager_reads_large_items_a_few_at_a_time(large: bool) -> None:
    limits: list[int] = []

    async def read(after: list[int] | None, limit: int) -> list[int]:
        limits.append(limit)
        first = after[0] + 1 if after else 0
        return list(range(first, first + limit))

    pager = Pager("numbers", key_types=(int,))
    page = await pager.page(50, "", {}, read, lambda row: [row], (lambda _: 1) if large else None)
    assert page.items == list(range(50))
    assert limits == ([20, 20, 11] if large else [51])


@pytest.mark.parametrize(
    "key", [[], [1, 2], ["a", "b"], [True], [None], [2**63], ["nul\0"], ["\ud800"], [[1]], [float("nan")], {"a": 1}]
)
@pytest.mark.parametrize("types", [(str,), (int,), (float,)])
async def test_a_token_that_somebody_wrote_is_refused_before_a_database_sees_it(
    key: object, types: tuple[type, ...]
) -> None:
    async def read(after: list[object] | None, _limit: int) -> list[int]:
        raise AssertionError(after)

    token = token_with_key(encode_page_token("numbers", {}, [1]), key)
    with pytest.raises(InvalidArgument) as refused:
        await Pager("numbers", key_types=types).page(1, token, {}, read, lambda row: [row])
    assert refused.value.reason == "INVALID_PAGE_TOKEN"


@given(st.lists(scalars, max_size=4), st.integers(min_value=0), st.integers(1, 255))
def test_a_token_that_was_changed_anywhere_is_refused(key: list[object], position: int, change: int) -> None:
    token = encode_page_token("crews", {}, key)
    raw = bytearray(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[position % len(raw)] ^= change
    with pytest.raises(InvalidArgument):
        decode_page_token(urlsafe_b64encode(raw).decode(), "crews", {})


def test_replicas_take_each_others_tokens_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.paging._seal.key", bytes(32))
    token = encode_page_token("crews", {}, [1])
    seal_page_tokens(b"a" * 32)
    with pytest.raises(InvalidArgument):
        decode_page_token(token, "crews", {})
    seal_page_tokens(bytes(32))
    assert decode_page_token(token, "crews", {}) == [1]
