"""Server-sent events out of a stream of bytes."""

import json
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
        """The beginning, as long as it may be a mark."""
        self._pieces: list[bytes] = []
        """The line that is not complete."""
        self._pieces_size = 0
        self._may_end = False
        """Whether that line ends in half of a line end, perhaps."""
        self._data: list[bytes] = []
        self._size = 0
        self._is_error = False
        """Whether the event is named one."""
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
        within = self._pieces_size or self._data or self._may_end or self._is_error
        if within or b"\r" in chunk or not chunk.endswith(b"\n\n"):
            return self._feed_lines(chunk)
        # Most chunks are whole events, of one line each.
        events: list[str] = []
        for block in chunk[:-2].split(b"\n\n"):
            if block.startswith(b"data: ") and b"\n" not in block and len(block) <= self._max_event_bytes:
                events.append(block[6:].decode("utf-8", "replace"))
                continue
            for line in (*block.split(b"\n"), b""):
                if (event := self._line(line)) is not None:
                    events.append(event)
        return events

    def _feed_lines(self, chunk: bytes) -> list[str]:
        self._pieces.append(chunk)
        self._pieces_size += len(chunk)
        lines: list[bytes] = []
        # A long line comes in many pieces: joined at each of them, it would take time by the square of its length.
        if self._may_end or b"\n" in chunk or b"\r" in chunk:
            text = b"".join(self._pieces)
            lines = _LINE_END.split(text) if b"\r" in text else text.split(b"\n")
            # A carriage return at the very end may be half of a line end.
            self._may_end = text.endswith(b"\r")
            rest = lines.pop()
            if self._may_end:
                rest = lines.pop() + b"\r"
            self._pieces, self._pieces_size = [rest], len(rest)
        if self._pieces_size + self._size > self._max_event_bytes:
            raise EventTooLarge
        return [event for line in lines if (event := self._line(line)) is not None]

    def finish(self) -> list[str]:
        """Return what the end of the stream completes: some servers leave out the last empty line."""
        rest = b"".join([self._rest, *self._pieces]).rstrip(b"\r")
        self._rest, self._pieces = b"", []
        lines = [rest, b""] if rest else [b""]
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> str | None:
        if not line:
            is_error, self._is_error = self._is_error, False
            if not self._data:
                return None
            event = b"\n".join(self._data).decode("utf-8", "replace")
            self._data.clear()
            self._size = 0
            return _as_error(event) if is_error else event
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        # llama.cpp has a field of its own for them.
        self._is_error = self._is_error or name == b"error" or (name == b"event" and value == b"error")
        if name in (b"data", b"error"):
            self._size += len(value) + 1
            if self._size > self._max_event_bytes:
                raise EventTooLarge
            self._data.append(value)
        return None


def _as_error(data: str) -> str:
    """Return the data of an event that is named an error as a document that says so itself."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return json.dumps({"error": data})
    if isinstance(document, dict) and "error" in document:
        return data
    # Written anew, a document that can only just be read would be nested too deeply.
    return f'{{"error":{data}}}'
