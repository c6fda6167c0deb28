"""What a server may send before it takes statements: little, and nothing that takes minutes to answer."""

import re
import ssl
import struct
from typing import Final

_MOST_ROUNDS: Final = 1_000_000
"""Rounds of the hash that a server may ask for when it checks a password: 4096 is usual, a million takes a third of a
second, and this process stands still meanwhile."""
_MOST_BYTES: Final = 16 * 1024
_MOST_DIGITS: Final = 9
_ROUNDS: Final = re.compile(rb",i=(\d+)")
_HEADER: Final = struct.Struct("!ci")
_READY: Final = b"Z"


class Handshake:
    """Follows the messages of one server until it is ready for statements."""

    def __init__(self) -> None:
        self._seen = bytearray()
        self._next = 0
        self.is_over = False
        """Whether the server is ready: from then on nothing of what it sends is a part of signing in."""

    def see(self, data: bytes) -> None:
        """Look at the bytes that come next, before anything else does.

        Raises:
            ssl.SSLError: the connection is to be ended.
        """
        self._seen += data
        # Wherever it stands, as asyncpg takes it from anywhere, and all together: it computes each time it is asked,
        # even by a server that has already let it in.
        asked = _ROUNDS.findall(self._seen)
        if any(len(rounds) > _MOST_DIGITS for rounds in asked) or sum(map(int, asked)) > _MOST_ROUNDS:
            raise ssl.SSLError("the server asks for more rounds of its hash than are computed")
        self._pass_messages()
        if not self.is_over and len(self._seen) > _MOST_BYTES:
            raise ssl.SSLError("the server sends more than a handshake has")

    def _pass_messages(self) -> None:
        while len(self._seen) >= self._next + _HEADER.size:
            kind, length = _HEADER.unpack_from(self._seen, self._next)
            if kind == b"\0" or length < _HEADER.size - 1:
                raise ssl.SSLError("the server sends what is no message of PostgreSQL")
            end = self._next + 1 + length
            if end > len(self._seen):
                return
            self._next = end
            if kind == _READY:
                self.is_over = True
                self._seen.clear()
                return
