"""When records expire."""

from services.memory.domain.moments import microseconds
from services.memory.domain.records import Record, ShortTerm

HOUR_US = 3_600_000_000


def expires_us(record: Record) -> int | None:
    """Return when a stored record expires, in microseconds since 1970; None means never, or that nobody knows.

    A short-term memory lives so many hours; any record may end at a time of its own, whichever comes first.
    """
    ends = None if record.expires_at is None else microseconds(record.expires_at)
    if isinstance(record.body, ShortTerm) and record.body.ttl_hours > 0 and record.created_at is not None:
        hours_end = microseconds(record.created_at) + record.body.ttl_hours * HOUR_US
        return hours_end if ends is None else min(ends, hours_end)
    return ends
