"""Frames on the socket between a host and a crew process, each a `Frame` message.

Everything a crew process sends is data, never code that its host would run. A decoded frame never holds U+0000, which
PostgreSQL cannot store: U+FFFD stands in its place.
"""

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from coxswain.orchestrator.worker.link_pb2 import Frame
from services.common import child_process
from services.common.child_process import BadFrame
from services.orchestrator.worker.link.text import replace_nulls

MAX_FRAME_BYTES = child_process.MAX_FRAME_BYTES


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of a frame.

    Raises:
        BadFrame: it is larger than MAX_FRAME_BYTES.
    """
    return child_process.encode_frame(frame.SerializeToString(), MAX_FRAME_BYTES)


class FrameDecoder:
    """Turns bytes, however they are divided when they arrive, back into frames."""

    def __init__(self) -> None:
        self._bodies = child_process.FrameDecoder(MAX_FRAME_BYTES)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes.

        Raises:
            BadFrame: one is larger than the limit, or is not a Frame with content.
        """
        return map(_decode, self._bodies.feed(data))


def _decode(body: bytes) -> Frame:
    try:
        frame = Frame.FromString(body)
    except DecodeError as error:
        raise BadFrame(f"a frame is not a valid message: {error}") from error
    if frame.WhichOneof("content") is None:
        raise BadFrame("a frame has no content")
    if b"\0" in body:  # numbers have null bytes too, but most frames have none at all
        replace_nulls(frame)
    return frame
