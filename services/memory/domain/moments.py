"""Moments as whole microseconds, which sort and compare exactly."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

DAY_US: Final = 86_400_000_000
"""Microseconds of a day."""

UNKNOWN: Final = _EPOCH
"""Stands for the time of a row that does not say it."""


def microseconds(moment: datetime) -> int:
    """Return whole microseconds since 1970 of an aware moment."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(us: int) -> datetime:
    """Return the moment of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)
