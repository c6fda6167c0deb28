"""Pages that fit into a message."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.usecases.pages import fitting, read_fitting

MEGABYTE = 1024 * 1024


@given(
    st.lists(st.sampled_from(["", "x" * (MEGABYTE // 2), "x" * MEGABYTE, "x" * (3 * MEGABYTE)]), max_size=8),
    st.integers(1, 8),
)
def test_a_page_never_outgrows_a_message_and_always_goes_on(texts: list[str], size: int) -> None:
    page = fitting(texts, size, lambda text: text)
    assert list(page) == texts[: len(page)]
    assert len(page) <= size
    assert bool(page) == bool(texts)
    assert len(page) <= 1 or sum(map(len, page)) <= 2 * MEGABYTE
    if len(page) < min(size, len(texts)):
        assert sum(map(len, texts[: len(page) + 1])) > 2 * MEGABYTE - 100


@given(
    st.lists(st.sampled_from(["", "x" * 100, "x" * (MEGABYTE // 2), "x" * (3 * MEGABYTE)]), max_size=50),
    st.integers(1, 60),
)
def test_a_page_read_in_portions_is_the_one_cut_from_all_and_reads_little_beyond_it(
    texts: list[str], size: int
) -> None:
    items = list(enumerate(texts))
    read_so_far = 0

    async def read(last: tuple[int, str] | None, limit: int) -> Sequence[tuple[int, str]]:
        nonlocal read_so_far
        first = 0 if last is None else last[0] + 1
        portion = items[first : first + limit]
        read_so_far += len(portion)
        return portion

    page, more = asyncio.run(read_fitting(read, size, lambda item: item[1]))
    assert list(page) == list(fitting(items, size, lambda item: item[1]))
    assert more == (len(page) < len(items))
    assert read_so_far <= len(page) + 20
