"""Times and durations as messages."""

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.errors import InvalidArgument

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MOST_SECONDS = 315_576_000_000
"""What the definition of Duration allows."""


def timestamp_from_proto(message: Timestamp, path: str) -> datetime:
    """Return a time in UTC; `path` names the field in the error.

    Raises:
        InvalidArgument: the time is outside of the years 1 to 9999.
    """
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument.field(path, "is outside of the years 1 to 9999") from None


def optional_timestamp_from_proto(message: Message, field: str, path: str = "") -> datetime | None:
    """Return the time in a field of a message, None when it is absent; `path` is that of the message.

    Raises:
        InvalidArgument: the time is outside of the years 1 to 9999.
    """
    if not message.HasField(field):
        return None
    return timestamp_from_proto(getattr(message, field), f"{path}.{field}" if path else field)


def timestamp_to_proto(moment: datetime | None) -> Timestamp | None:
    """Return the message of an aware time, None for None."""
    if moment is None:
        return None
    # What FromDatetime does, in a third of its time.
    seconds, microseconds = divmod((moment - _EPOCH) // _MICROSECOND, 1_000_000)
    return Timestamp(seconds=seconds, nanos=1000 * microseconds)


def duration_from_proto(message: Duration, path: str) -> timedelta:
    """Return a duration; `path` names the field in the error.

    Raises:
        InvalidArgument: it is longer than about 10,000 years, as no duration may be.
    """
    if abs(message.seconds) > _MOST_SECONDS:
        raise InvalidArgument.field(path, f"may have {_MOST_SECONDS:,} seconds, about 10,000 years, at most")
    return message.ToTimedelta()


def duration_to_proto(seconds: float | None) -> Duration | None:
    """Return the message of so many seconds, None for None."""
    if seconds is None:
        return None
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message
