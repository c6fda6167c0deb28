"""The `Retry-After` of HTTP answers (RFC 9110): seconds or a date."""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

from services.common.clock import utc_now

_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")


def parse_retry_after(value: str, longest: float) -> float | None:
    """Return the seconds that a header asks for, at most `longest`, 0 for a past date; None when it cannot be read.

    Fractions are taken, though the RFC has none: servers send them.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), longest)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # A date without a zone ("-0000") is in UTC.
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - utc_now()
    return min(max(0.0, seconds.total_seconds()), longest)
