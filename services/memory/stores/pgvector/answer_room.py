"""How much of what servers of others answer is held at once: of one answer, of one group, and of all."""

import struct
import threading
from collections import Counter
from typing import Final

_GROUP_PART: Final = 2
"""A group's answers hold at most this part of all bytes, or as many as one answer may have."""
_ROW: Final = struct.Struct("!ciH")
_ROW_BYTES: Final = 512
_COLUMN_BYTES: Final = 64
"""What a row and each of its values take here besides what is sent: objects, and entries of containers."""


class AnswerTooLarge(Exception):
    """A server sent more than an answer may have; its connection was closed. Never leaves the store."""


class NoRoomForAnswer(Exception):
    """The answers of a group, or of all, hold as much as they may; the connection was closed. Never leaves a store."""


class AnswerRoom:
    """Bytes that answers hold. Connections of several threads may share it."""

    def __init__(self, *, answer_bytes: int, all_bytes: int) -> None:
        """`answer_bytes` is what one answer may hold, and `all_bytes` what all that are held at the same time may."""
        self.answer_bytes = answer_bytes
        self._all_bytes = max(answer_bytes, all_bytes)
        self._group_bytes = max(answer_bytes, all_bytes // _GROUP_PART)
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, group_id: str, more: int) -> None:
        """Let a group's answers hold more bytes.

        Raises:
            NoRoomForAnswer: they may not; none were taken.
        """
        with self._lock:
            if self._held[group_id] + more > self._group_bytes or self._held.total() + more > self._all_bytes:
                raise NoRoomForAnswer
            self._held[group_id] += more

    def give_back(self, group_id: str, held: int) -> None:
        """Note that a group's answers hold so many bytes less."""
        with self._lock:
            self._held[group_id] -= held
            self._held += Counter()


class Answer:
    """What has come from one server since something was sent to it, and is held."""

    def __init__(self, room: AnswerRoom, group_id: str) -> None:
        self._room = room
        self._group_id = group_id
        self._size = 0
        self._rest = b""
        self._skipped = 0

    def add(self, data: bytes) -> None:
        """Hold the bytes that come next, with what their rows take besides.

        Raises:
            AnswerTooLarge: they are too many.
            NoRoomForAnswer: other answers hold too many already.
        """
        more = len(data) + self._rows_bytes(data)
        if self._size + more > self._room.answer_bytes:
            raise AnswerTooLarge
        self._room.take(self._group_id, more)
        self._size += more

    def let_go(self) -> None:
        """Hold nothing of it any more: what comes from now on is another answer."""
        held, self._size = self._size, 0
        if held:
            self._room.give_back(self._group_id, held)

    def _rows_bytes(self, data: bytes) -> int:
        """Follow the messages, and return what the rows that begin among these bytes take besides them."""
        data, position, more = self._rest + data, self._skipped, 0
        while position + _ROW.size <= len(data):
            kind, length, columns = _ROW.unpack_from(data, position)
            if kind == b"D":
                more += _ROW_BYTES + _COLUMN_BYTES * columns
            # The driver ends the connection where a length is none.
            position += 1 + max(length, 4)
        self._rest, self._skipped = data[position:], max(0, position - len(data))
        return more
