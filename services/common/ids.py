"""Identifiers: UUID version 7 (RFC 9562), which sort by the time they were made."""

import os
import re
import threading
import time
from datetime import datetime

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

_lock = threading.Lock()
_newest = [0]
_random: list[int] = []
"""Numbers of 74 random bits, none of which is used twice: one reading of the system's source serves many ids."""
_RANDOM_BITS = 74
_RANDOM_BYTES = 10
_READ_BYTES = 400 * _RANDOM_BYTES
# A process that was forked must not make its parent's ids.
os.register_at_fork(after_in_child=_random.clear)


def new_id() -> str:
    """Return a new id. Ids made by one process rise strictly, even within a millisecond."""
    # 48 bits of milliseconds, then 74 random bits: all but the version and variant fields.
    milliseconds = time.time_ns() // 1_000_000
    with _lock:
        if not _random:
            _read_random()
        candidate = milliseconds << _RANDOM_BITS | _random.pop()
        if candidate <= _newest[0]:
            # Again random bits, so that nobody guesses the next id.
            candidate = _newest[0] + 1 + (candidate & 0xFFFF_FFFF)
        _newest[0] = candidate
    return _formatted(candidate)


def is_id(text: str) -> bool:
    """Return whether a text looks like one of our ids. The ids that clients choose never do by chance."""
    return _ID.fullmatch(text) is not None


def lowest_id(moment: datetime) -> str:
    """Return the lowest id that could be made at a moment: ids made before it are lower."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return _formatted(milliseconds << 74)


def _formatted(number: int) -> str:
    """Return the id of 48 bits of milliseconds and 74 others."""
    timestamp, random_a, random_b = number >> 74, (number >> 62) & 0xFFF, number & ((1 << 62) - 1)
    digits = f"{timestamp << 80 | 0x7 << 76 | random_a << 64 | 0b10 << 62 | random_b:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _read_random() -> None:
    read = os.urandom(_READ_BYTES)
    unused = _RANDOM_BYTES * 8 - _RANDOM_BITS
    _random.extend(
        int.from_bytes(read[start : start + _RANDOM_BYTES], "big") >> unused
        for start in range(0, _READ_BYTES, _RANDOM_BYTES)
    )
