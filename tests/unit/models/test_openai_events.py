"""Server-sent events, however their bytes arrive."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.models.providers.openai.events import EventParser, EventTooLarge

STREAM = (
    ": a comment\r\n\r\n"
    'data: {"text": "Grüße 漢字 🙂"}\n\n'
    "event: message\ndata:no space\nid: 3\n\n"
    "data: two\ndata: lines\r\n\r\n"
    "retry: 3\n\n"
    "data:\n\n"
    "data: [DONE]\r\r"
)
EVENTS = ['{"text": "Grüße 漢字 🙂"}', "no space", "two\nlines", "", "[DONE]"]


def parse(chunks: list[bytes], limit: int = 1000) -> list[str]:
    parser = EventParser(limit)
    return [event for chunk in chunks for event in parser.feed(chunk)] + parser.finish()


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM.encode())), max_size=30))
def test_events_are_the_same_wherever_their_bytes_are_cut(cuts: list[int]) -> None:
    data = STREAM.encode()
    bounds = sorted({0, len(data), *cuts})
    assert parse([data[start:end] for start, end in itertools.pairwise(bounds)]) == EVENTS


def test_events_are_the_same_byte_by_byte() -> None:
    assert parse([bytes([byte]) for byte in STREAM.encode()]) == EVENTS


def test_an_event_without_its_last_empty_line_counts_at_the_end() -> None:
    assert parse([b"data: a\n\ndata: b"]) == ["a", "b"]
    assert parse([b"data: a\n"]) == ["a"]
    assert parse([]) == []


@pytest.mark.parametrize("chunks", [[b"data: " + b"x" * 2000], [b"data: " + b"x" * 500 + b"\n"] * 3])
def test_an_endless_event_is_refused(chunks: list[bytes]) -> None:
    with pytest.raises(EventTooLarge):
        parse(chunks)


def test_an_error_that_is_nested_as_deeply_as_can_be_read_is_one() -> None:
    for depth in range(700, 1100):
        data = "[" * depth + "]" * depth
        (event,) = parse([f"event: error\ndata: {data}\n\n".encode()], limit=10_000)
        assert event.startswith('{"error":')


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_no_bytes_break_the_parser(chunks: list[bytes]) -> None:
    parse(chunks, limit=10_000)


@pytest.mark.parametrize("ending", [b"\n\n", b"\r\n\r\n"])
def test_an_event_in_small_pieces_is_not_read_again_for_each_of_them(ending: bytes) -> None:
    def work(size: int) -> int:
        """Return how many bytes are looked at or put together."""
        handled = 0

        class Piece(bytes):
            def __radd__(self, before: bytes) -> "Piece":
                nonlocal handled
                handled += len(before) + len(self)
                return Piece(before + bytes(self))

            def __contains__(self, what: Any) -> bool:
                nonlocal handled
                handled += len(self)
                return super().__contains__(what)

        data = b"data: " + b"x" * size + ending
        parser = EventParser(10 * size)
        pieces = [Piece(data[start : start + 10]) for start in range(0, len(data), 10)]
        assert [event for piece in pieces for event in parser.feed(piece)] == ["x" * size]
        return handled

    assert work(20_000) <= 2.5 * work(10_000)
