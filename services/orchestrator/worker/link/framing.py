"""Frames on the socket between a host and a crew process: a length in four bytes, then a `Frame` message.

Whatever a crew process sends is data, never code that its host would run. A decoded frame never holds U+0000, which
PostgreSQL cannot store: U+FFFD stands in its place.
"""

import struct
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from coxswain.orchestrator.worker.link_pb2 import Frame
from services.orchestrator.worker.link.text import replace_nulls

MAX_FRAME_BYTES = 64 * 1024 * 1024

_HEADER = struct.Struct(">I")


class BadFrame(ValueError):
    """The bytes are not a valid frame; the connection cannot be used any more."""


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of a frame.

    Raises:
        ValueError: the frame is larger than MAX_FRAME_BYTES.
    """
    body = frame.SerializeToString()
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(body)} bytes is larger than the limit of {MAX_FRAME_BYTES}")
    return _HEADER.pack(len(body)) + body


class FrameDecoder:
    """Turns bytes, in whatever portions they arrive, back into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes.

        Raises:
            BadFrame: a length is over the limit, or a body is not a Frame with content.
        """
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise BadFrame(f"a frame of {length} bytes is larger than the limit of {MAX_FRAME_BYTES}")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield _decode(body)


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
