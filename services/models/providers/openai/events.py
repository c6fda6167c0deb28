"""Server-sent events out of a stream of bytes."""

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """One event is larger than any answer needs."""


class EventParser:
    """Cuts bytes into the data of events, however the bytes arrive: lines, line ends and characters may be split."""

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of the events that `chunk` completes.

        Raises:
            EventTooLarge: an event is longer than the limit.
        """
        if not self._begun:
            # A mark of the byte order may stand before the first event, in pieces too.
            self._rest += chunk
            if len(self._rest) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(self._rest):
                return []
            chunk, self._rest, self._begun = self._rest.removeprefix(_BYTE_ORDER_MARK), b"", True
        lines = _LINE_END.split(self._rest + chunk)
        # A carriage return at the very end may be half of a line end.
        if (self._rest + chunk).endswith(b"\r"):
            self._rest = lines[-2] + b"\r"
            lines = lines[:-2]
        else:
            self._rest = lines.pop()
        if len(self._rest) + self._size > self._max_event_bytes:
            raise EventTooLarge
        return [event for line in lines if (event := self._line(line)) is not None]

    def finish(self) -> list[str]:
        """Return what the end of the stream completes: some servers leave out the last empty line."""
        rest, self._rest = self._rest.rstrip(b"\r"), b""
        lines = [rest, b""] if rest else [b""]
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> str | None:
        if not line:
            if not self._data:
                return None
            event = b"\n".join(self._data).decode("utf-8", "replace")
            self._data.clear()
            self._size = 0
            return event
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._size += len(value) + 1
            if self._size > self._max_event_bytes:
                raise EventTooLarge
            self._data.append(value)
        return None
