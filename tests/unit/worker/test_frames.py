"""Frames between a host and a crew process."""

from hypothesis import example, given
from hypothesis import strategies as st

from services.orchestrator.worker.frames import Frame, FrameDecoder, encode_frame

NULLS = st.text(st.sampled_from('\0\\u0a"é'), max_size=12)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | NULLS
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
FRAMES = st.dictionaries(TEXTS, VALUES, max_size=4)


def decode(data: bytes, step: int = 1 << 20) -> list[Frame]:
    decoder = FrameDecoder()
    return [frame for start in range(0, len(data), step) for frame in decoder.feed(data[start : start + step])]


@given(st.lists(FRAMES, max_size=4), st.integers(1, 9))
def test_frames_come_back_whole_whatever_pieces_they_arrive_in(frames: list[Frame], step: int) -> None:
    data = b"".join(map(encode_frame, frames))
    assert decode(data, step) == decode(data)
    assert len(decode(data)) == len(frames)


@given(FRAMES)
@example({"result": {"text": "a\0b", "c\0": ["\0", {"d": "\\u0000"}]}})
def test_a_decoded_frame_holds_the_replacement_character_where_u0000_was(frame: Frame) -> None:
    (decoded,) = decode(encode_frame(frame))
    assert decoded == _marked(frame)
    assert "\0" not in _texts(decoded)


def _marked(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_marked(key): _marked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item) for item in value]
    return value


def _texts(value: object) -> str:
    if isinstance(value, dict):
        return "".join(_texts(part) for item in value.items() for part in item)
    if isinstance(value, list):
        return "".join(map(_texts, value))
    return value if isinstance(value, str) else ""
