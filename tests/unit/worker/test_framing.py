"""Frames survive whatever pieces they arrive in; what is no frame is refused."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.worker.link import framing
from services.orchestrator.worker.link.framing import BadFrame, FrameDecoder, RemoteError, encode_frame

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
FRAMES = st.dictionaries(TEXTS, VALUES, max_size=5)


def decoded(data: bytes, cuts: list[int] | None = None) -> list[Any]:
    decoder = FrameDecoder()
    found: list[Any] = []
    start = 0
    for cut in sorted(min(cut, len(data)) for cut in cuts or []):
        found += decoder.feed(data[start:cut])
        start = cut
    return [*found, *decoder.feed(data[start:])]


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(0, 2000), max_size=8))
def test_frames_come_out_as_they_went_in_whatever_the_pieces(sent: list[Any], cuts: list[int]) -> None:
    assert decoded(b"".join(map(encode_frame, sent)), cuts) == sent


@given(st.binary(max_size=64))
def test_bytes_that_are_no_frames_are_refused_or_waited_for(data: bytes) -> None:
    try:
        found = decoded(data)
    except BadFrame:
        return
    assert all(isinstance(frame, dict) for frame in found)


@pytest.mark.parametrize("body", [b"[1]", b'"text"', b"{", b"\xff", b""])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadFrame):
        decoded(struct.pack(">I", len(body)) + body)


def test_a_length_over_the_limit_is_refused_before_its_bytes_arrive() -> None:
    with pytest.raises(BadFrame):
        decoded(struct.pack(">I", framing.MAX_FRAME_BYTES + 1))


def test_a_frame_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_FRAME_BYTES", 20)
    with pytest.raises(ValueError, match="larger than the limit"):
        encode_frame({"text": "a" * 20})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_json_has_no_word_for_are_not_sent(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode_frame({"vector": [number]})


def test_texts_utf_8_cannot_carry_lose_only_what_it_cannot() -> None:
    assert decoded(encode_frame({"text": "a\ud800b"})) == [{"text": "a?b"}]


def test_the_null_character_is_replaced_wherever_it_stands() -> None:
    sent = {"a\0": ["b\0", {"c": "\0"}], "plain": "\\u0000"}
    assert decoded(encode_frame(sent)) == [{"a\ufffd": ["b\ufffd", {"c": "\ufffd"}], "plain": "\\u0000"}]


def test_errors_cross_the_link_whole() -> None:
    error = RemoteError("MODEL_DISABLED", "switched off", fatal=True)
    back = RemoteError.from_json(json.loads(json.dumps(error.as_json())))
    assert (back.reason, back.message, back.fatal) == ("MODEL_DISABLED", "switched off", True)
