"""Frames on the socket between a host and a crew process: a length in four bytes, then a JSON object in UTF-8.

JSON and not pickle: whatever a crew process sends is data, never code that its host would run. Three sorts of frames:

    {"call": 7, "method": "llm.complete", "params": {...}}      a request; without "call" a notice that gets no reply
    {"reply": 7, "result": {...}} or {"reply": 7, "error": {"reason": ..., "message": ..., "fatal": ...}}
    {"cancel": 7}                                               the caller waits for that reply no longer

Both ends may call; each numbers its own calls. A decoded frame never holds U+0000, which JSON can say and PostgreSQL
cannot store: U+FFFD stands in its place.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

Frame = dict[str, Any]

MAX_FRAME_BYTES = 64 * 1024 * 1024

_HEADER = struct.Struct(">I")
_ESCAPED_NULL = b"\\u0000"


class BadFrame(ValueError):
    """The bytes are no frame; the connection is of no use any more."""


class RemoteError(Exception):
    """The other end answered with an error.

    `reason` is an ErrorReason without its prefix. `fatal` says that trying again within the task is pointless: the task
    has to end.
    """

    def __init__(self, reason: str, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fatal = fatal

    def as_json(self) -> Frame:
        """Return the `error` of a reply."""
        return {"reason": self.reason, "message": self.message, "fatal": self.fatal}

    @classmethod
    def from_json(cls, error: Frame) -> "RemoteError":
        """Return the error of a reply."""
        return cls(str(error["reason"]), str(error["message"]), fatal=bool(error.get("fatal")))


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of a frame.

    Raises:
        ValueError: the frame is larger than MAX_FRAME_BYTES or holds a number JSON has no word for.
    """
    body = json.dumps(frame, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A tool may hand out lone surrogates, which UTF-8 cannot carry.
    data = body.encode("utf-8", "replace")
    if len(data) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(data)} bytes is larger than the limit of {MAX_FRAME_BYTES}")
    return _HEADER.pack(len(data)) + data


class FrameDecoder:
    """Turns bytes, in whatever pieces they arrive, back into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes.

        Raises:
            BadFrame: a length is over the limit, or a body is no JSON object.
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
        frame = json.loads(body)
    except ValueError as error:
        raise BadFrame(f"a frame is no JSON: {error}") from error
    if not isinstance(frame, dict):
        raise BadFrame(f"a frame is a JSON object, not {type(frame).__name__}")
    return _without_nulls(frame) if _ESCAPED_NULL in body else frame


def _without_nulls(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", "\ufffd")
        case dict():
            return {_without_nulls(key): _without_nulls(item) for key, item in value.items()}
        case list():
            return [_without_nulls(item) for item in value]
        case _:
            return value
