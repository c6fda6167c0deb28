"""Server-sent events, read in pieces of any size."""

from collections.abc import Iterator
from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """One event has more bytes than are read."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. `id` is None where it names none."""

    name: str
    data: bytes
    id: str | None = None
    retry_seconds: float | None = None


class EventDecoder:
    """Turns bytes into events, however they are divided when they arrive."""

    def __init__(self, max_event_bytes: int) -> None:
        self._max_bytes = max_event_bytes
        self._lines = bytearray()
        self._searched = 0
        self._after_return = False
        self._first = True
        self.lines = 0
        """How many there were."""
        self._clear()

    def _clear(self) -> None:
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        self._id: str | None = None
        self._retry: float | None = None

    def feed(self, data: bytes) -> Iterator[ServerEvent]:
        """Yield the events that `data` completes.

        Raises:
            EventTooLarge: an event has more bytes than the limit.
        """
        self._lines += self._with_newlines(data)
        while (end := self._lines.find(b"\n", self._searched)) >= 0:
            line = bytes(self._lines[:end])
            del self._lines[: end + 1]
            self._searched = 0
            self.lines += 1
            if self._first:
                line, self._first = line.removeprefix(_BOM), False
            if line:
                self._take(line)
            elif self._data or self._id is not None or self._retry is not None:
                yield ServerEvent(self._name or "message", b"\n".join(self._data), self._id, self._retry)
                self._clear()
            else:
                self._clear()
        self._searched = len(self._lines)
        if self._size + len(self._lines) > self._max_bytes:
            raise EventTooLarge

    def _with_newlines(self, data: bytes) -> bytes:
        """Make each of the three line ends that the format has a newline, over the bounds of pieces too."""
        if self._after_return and data.startswith(b"\n"):
            data = data[1:]
        if data:
            self._after_return = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data

    def _take(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._size += len(value) + 1
            if self._size > self._max_bytes:
                raise EventTooLarge
            self._data.append(value)
        elif field == b"event":
            self._name = value[:100].decode(errors="replace")
        elif field == b"id" and b"\0" not in value and len(value) <= 1024:
            self._id = value.decode(errors="replace")
        elif field == b"retry" and value.isdigit() and len(value) < 10:
            self._retry = int(value) / 1000
