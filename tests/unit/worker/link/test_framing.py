"""Frames survive whatever portions they arrive in; what is not a frame is refused."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coxswain.memory.v1.record_pb2 import Record, UnifiedRecord
from coxswain.models.v1.inference_pb2 import CompleteResponse, ToolCall
from coxswain.orchestrator.worker.link_pb2 import Error, Frame
from services.common.child_process import BadFrame
from services.common.grpc.json_values import to_value
from services.orchestrator.worker.link import framing
from services.orchestrator.worker.link.errors import TaskError, error_from_proto, error_to_proto
from services.orchestrator.worker.link.framing import FrameDecoder, encode_frame

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
).map(to_value)
RECORDS = st.builds(
    Record,
    id=TEXTS,
    unified=st.builds(UnifiedRecord, content=TEXTS, categories=st.lists(TEXTS, max_size=3)),
    embedding=st.lists(st.floats(width=32, allow_nan=False), max_size=8),
)
ANSWERS = st.builds(CompleteResponse, text=TEXTS, tool_calls=st.lists(st.builds(ToolCall, id=TEXTS), max_size=3))
CONTENTS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"cancel": st.just({})}),
    st.fixed_dictionaries({"error": st.builds(Error, reason=TEXTS, message=TEXTS, fatal=st.booleans())}),
    st.fixed_dictionaries({"host_reply": st.fixed_dictionaries({"complete": ANSWERS})}),
    st.fixed_dictionaries(
        {
            "crew_request": st.fixed_dictionaries(
                {
                    "task": st.integers(-1, 255),
                    "save_records": st.fixed_dictionaries({"records": st.lists(RECORDS, max_size=3)}),
                }
            )
        }
    ),
    st.fixed_dictionaries(
        {
            "host_request": st.fixed_dictionaries(
                {"open_session": st.fixed_dictionaries({"inputs": st.dictionaries(TEXTS, VALUES, max_size=3)})}
            )
        }
    ),
)
FRAMES = st.builds(lambda call, content: Frame(call=call, **content), st.integers(0, 2**64 - 1), CONTENTS)


def decoded(data: bytes, cuts: list[int] | None = None) -> list[Frame]:
    decoder = FrameDecoder()
    found: list[Frame] = []
    start = 0
    for cut in sorted(min(cut, len(data)) for cut in cuts or []):
        found += decoder.feed(data[start:cut])
        start = cut
    return [*found, *decoder.feed(data[start:])]


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(0, 2000), max_size=8))
def test_frames_come_out_as_they_went_in_whatever_the_portions(sent: list[Frame], cuts: list[int]) -> None:
    assert decoded(b"".join(map(encode_frame, sent)), cuts) == sent


@given(st.binary(max_size=64))
def test_bytes_that_are_not_frames_are_refused_or_waited_for(data: bytes) -> None:
    try:
        found = decoded(data)
    except BadFrame:
        return
    assert all(frame.WhichOneof("content") for frame in found)


@pytest.mark.parametrize(
    "body",
    [b"", b"\x08\x01", b"\xff", b"{}", b"\x22\x7f", b"\x32\x03\x0a\x01\xff"],
    ids=["empty", "no content", "no tag", "JSON", "cut off", "no UTF-8"],
)
def test_a_body_that_is_not_a_frame_with_content_is_refused(body: bytes) -> None:
    with pytest.raises(BadFrame):
        decoded(struct.pack(">I", len(body)) + body)


def test_a_length_over_the_limit_is_refused_before_its_bytes_arrive() -> None:
    with pytest.raises(BadFrame):
        decoded(struct.pack(">I", framing.MAX_FRAME_BYTES + 1))


def test_a_frame_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_FRAME_BYTES", 20)
    with pytest.raises(BadFrame, match="larger than the limit"):
        encode_frame(Frame(error=Error(message="a" * 20)))


def test_the_null_character_is_replaced_in_what_arrives() -> None:
    sent = Frame(call=256, error=Error(reason="a\0", message="\\u0000"))
    assert decoded(encode_frame(sent)) == [Frame(call=256, error=Error(reason="a\ufffd", message="\\u0000"))]


def test_errors_cross_the_link_whole_and_with_any_text() -> None:
    error = error_from_proto(error_to_proto(TaskError("MODEL_DISABLED", "switched off \ud800", fatal=True)))
    assert (error.reason, error.message, error.fatal) == ("MODEL_DISABLED", "switched off \ufffd", True)
