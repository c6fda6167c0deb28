"""Half characters of upstreams never reach a message, nor does U+0000."""

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.models.providers.unicode_repair import JsonPieceRepair, PieceRepair, repair, repair_json

_ESCAPES = st.lists(
    st.sampled_from(
        [r"\u0000", r"\uD83D", r"\ude00", r"\u00e9", r"\\", r"\n", "u0000", "\ud83d", "\ude00", "\0", "x", '\\"']
    ),
    max_size=8,
).map("".join)
_HALVES = st.text(st.characters(categories=["Cs", "L", "N"]) | st.sampled_from("\ud83d\ude00\0"), max_size=20)


def test_halves_in_two_pieces_are_joined() -> None:
    pieces = PieceRepair()
    assert [pieces.feed("hi \ud83d"), pieces.feed("\ude00"), pieces.finish()] == ["hi ", "😀", ""]


def test_a_lone_half_is_replaced() -> None:
    pieces = PieceRepair()
    assert repair("x\ud83d") == "x\ufffd"
    assert repair("\ude00\ud83d\ud83d\ude00\ude00") == "\ufffd\ufffd😀\ufffd"
    assert pieces.feed("x\ud83d") + pieces.feed("y\ud83d") + pieces.finish() == "x\ufffdy\ufffd"


def test_zero_is_replaced_as_our_own_requests_may_not_hold_it() -> None:
    pieces = PieceRepair()
    assert repair("a\0b\0") == "a\ufffdb\ufffd"
    assert pieces.feed("é\0") + pieces.feed("\0") + pieces.finish() == "é\ufffd\ufffd"


@given(_HALVES)
def test_repaired_text_can_be_encoded_and_whole_text_stays(text: str) -> None:
    assert repair(text).encode().decode() == repair(text)
    assert repair(repair(text)) == repair(text)


@given(_HALVES, st.lists(st.integers(0, 20), max_size=5))
def test_pieces_give_what_the_whole_gives(text: str, cuts: list[int]) -> None:
    pieces = PieceRepair()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [pieces.feed(text[start:end]) for start, end in itertools.pairwise(edges)]
    assert "".join(parts) + pieces.finish() == repair(text)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (r'{"x\u0000": "a\u0000\u0000"}', {"x\ufffd": "a\ufffd\ufffd"}),
        (r'{"x": "\ud83d \uDE00 \uD83D\uDE00\ude00"}', {"x": "\ufffd \ufffd 😀\ufffd"}),
        (r'{"x": "C:\\u0000 \\\u0000"}', {"x": "C:\\u0000 \\\ufffd"}),
    ],
    ids=["zero", "halves", "backslashes"],
)
def test_escapes_of_what_cannot_be_said_are_replaced(arguments: str, meant: dict[str, str]) -> None:
    assert json.loads(repair_json(arguments)) == meant
    pieces = JsonPieceRepair()
    byte_by_byte = "".join(pieces.feed(letter) for letter in arguments) + pieces.finish()
    assert byte_by_byte == repair_json(arguments)


@given(_ESCAPES, st.lists(st.integers(0, 60), max_size=8))
@example(r"\\\ud83d\ude00", [2, 5, 9])
def test_json_in_pieces_is_what_the_whole_is_and_can_be_read_and_sent(text: str, cuts: list[int]) -> None:
    pieces = JsonPieceRepair()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [pieces.feed(text[start:end]) for start, end in itertools.pairwise(edges)]
    assert "".join(parts) + pieces.finish() == repair_json(text)
    meant = json.loads(f'"{repair_json(text)}"')
    assert "\0" not in meant
    assert meant == repair(json.loads(f'"{repair(text)}"'))
