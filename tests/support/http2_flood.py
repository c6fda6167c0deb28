"""A client that breaks off what it begins, or never ends it: HTTP/2 as no library for clients would send it."""

import contextlib
import socket
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_CANCEL = (8).to_bytes(4, "big")
_BEGUN_MESSAGE = b"\0" + (1_000_000).to_bytes(4, "big") + b"\x0a"
_INITIAL_WINDOW_SIZE = (4).to_bytes(2, "big") + (65535).to_bytes(4, "big")
_SENT_AT_ONCE = 16384


class Http2Flood:
    """One connection to a gRPC server, in clear text. It reads nothing unless it is asked to.

    All methods raise OSError when the server has ended the connection.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._next_stream = 1
        self._socket.sendall(_PREFACE + _frame(_SETTINGS) + _frame(_SETTINGS, flags=_ACK))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def begin_and_reset(self, path: str, calls: int) -> None:
        """Begin calls without a credential, and reset each at once."""
        self._send(_headers(stream, path, {}) + _frame(_RST_STREAM, _CANCEL, stream) for stream in self._streams(calls))

    def begin_without_end(self, path: str, calls: int, **headers: str) -> None:
        """Begin calls, each with a message that does not end; without headers they have no credential."""
        self._send(
            _headers(stream, path, headers) + _frame(_DATA, _BEGUN_MESSAGE, stream) for stream in self._streams(calls)
        )

    def ping(self, times: int) -> None:
        """Send pings, and read no answer."""
        self._send(_frame(_PING, number.to_bytes(8, "big")) for number in range(times))

    def change_settings(self, times: int) -> None:
        """Send settings, and read no answer."""
        self._send(_frame(_SETTINGS, _INITIAL_WINDOW_SIZE) for _ in range(times))

    def read_until_ended(self, calls: int) -> int:
        """Read until as many calls have ended, and return how many bytes more the server has let any of them send."""
        allowed = 0
        while calls:
            kind, flags, stream, payload = self._read_frame()
            if kind == _WINDOW_UPDATE and stream:
                allowed += int.from_bytes(payload, "big")
            elif kind == _HEADERS and flags & _END_STREAM:
                calls -= 1
        return allowed

    def _read_frame(self) -> tuple[int, int, int, bytes]:
        head = self._read(9)
        return head[3], head[4], int.from_bytes(head[5:], "big"), self._read(int.from_bytes(head[:3], "big"))

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            if not (part := self._socket.recv(length - len(data))):
                raise ConnectionError("the server has ended the connection")
            data += part
        return data

    def wait_for_end(self) -> None:
        """Read until the server ends the connection."""
        with contextlib.suppress(ConnectionError):
            while self._socket.recv(65536):
                pass

    def _streams(self, count: int) -> Iterator[int]:
        for _ in range(count):
            yield self._next_stream
            self._next_stream += 2

    def _send(self, frames: Iterable[bytes]) -> None:
        waiting = bytearray()
        for frame in frames:
            waiting += frame
            if len(waiting) > _SENT_AT_ONCE:
                self._socket.sendall(waiting)
                waiting.clear()
        self._socket.sendall(waiting)


def _frame(kind: int, payload: bytes = b"", stream: int = 0, *, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _headers(stream: int, path: str, more: Mapping[str, str]) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "flood",
        "content-type": "application/grpc",
        "te": "trailers",
        **more,
    }
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    return _frame(_HEADERS, block, stream, flags=_END_HEADERS)


def _text(value: str) -> bytes:
    """Return a text of less than 127 bytes as HPACK has it without compression."""
    return bytes((len(value),)) + value.encode()
