"""Identifiers: UUID version 7 (RFC 9562), which sort by the time they were made."""

import secrets
import threading
import time
import uuid

_lock = threading.Lock()
_newest = [0]


def new_id() -> str:
    """Return a new id. Ids made by one process rise strictly, even within a millisecond."""
    # 48 bits of milliseconds, then 74 random bits: all but the version and variant fields.
    candidate = (time.time_ns() // 1_000_000) << 74 | secrets.randbits(74)
    with _lock:
        if candidate <= _newest[0]:
            candidate = _newest[0] + 1 + secrets.randbits(32)
        _newest[0] = candidate
    timestamp, random_a, random_b = candidate >> 74, (candidate >> 62) & 0xFFF, candidate & ((1 << 62) - 1)
    return str(uuid.UUID(int=timestamp << 80 | 0x7 << 76 | random_a << 64 | 0b10 << 62 | random_b))
