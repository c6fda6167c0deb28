"""Pages that fit into a message."""

from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.usecases.pages import fitting

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
