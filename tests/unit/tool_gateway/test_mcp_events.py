"""Server-sent events: however they are cut, and whatever ends their lines."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.tool_gateway.adapters.mcp.sse import EventDecoder, EventTooLarge, ServerEvent

STREAM = (
    b"\xef\xbb\xbf: hello\r\nevent: message\r\nid: 1\r\nretry: 500\r\ndata: a\r\ndata: b\r\n\r\n"
    b"data:x\r\rid: 3\ndata\n\nid:\xff\nretry: soon\nunknown: y\n\n: end\n\n"
)
EVENTS = [
    ServerEvent("message", b"a\nb", "1", 0.5),
    ServerEvent("message", b"x"),
    ServerEvent("message", b"", "3"),
    ServerEvent("message", b"", "\ufffd"),
]


@given(st.lists(st.integers(0, len(STREAM))))
def test_pieces_of_any_size_give_the_same_events(cuts: list[int]) -> None:
    decoder = EventDecoder(1000)
    bounds = [0, *sorted(cuts), len(STREAM)]
    found = [event for start, end in itertools.pairwise(bounds) for event in decoder.feed(STREAM[start:end])]
    assert found == EVENTS


@given(st.lists(st.binary()))
def test_no_bytes_break_it(pieces: list[bytes]) -> None:
    decoder = EventDecoder(100)
    try:
        for piece in pieces:
            for event in decoder.feed(piece):
                assert len(event.data) <= 100
    except EventTooLarge:
        assert sum(map(len, pieces)) > 100


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 200, b"data: x\n" * 200, b"x" * 200])
def test_an_event_that_is_too_large_is_refused(piece: bytes) -> None:
    with pytest.raises(EventTooLarge):
        list(EventDecoder(100).feed(piece))


def test_lines_are_counted() -> None:
    decoder = EventDecoder(100)
    assert list(decoder.feed(b"\n" * 50)) == []
    assert decoder.lines == 50
