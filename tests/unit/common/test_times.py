"""Times and durations keep their value on the wire and back."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from coxswain.models.v1.usage_pb2 import QueryUsageRequest
from services.common.errors import InvalidArgument
from services.common.grpc.times import (
    duration_to_proto,
    optional_timestamp_from_proto,
    timestamp_from_proto,
    timestamp_to_proto,
)


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])))
def test_a_time_comes_back_to_the_microsecond(moment: datetime) -> None:
    try:
        in_utc = moment.astimezone(UTC)
    except OverflowError:
        return
    message = timestamp_to_proto(in_utc)
    assert message is not None
    assert timestamp_from_proto(message, "time") == moment


def test_an_absent_time_is_none() -> None:
    assert timestamp_to_proto(None) is None
    assert duration_to_proto(None) is None
    assert optional_timestamp_from_proto(QueryUsageRequest(), "start_time") is None


@pytest.mark.parametrize(("path", "field"), [("", "start_time"), ("query", "query.start_time")])
def test_a_time_outside_of_the_years_names_its_field(path: str, field: str) -> None:
    request = QueryUsageRequest(start_time=Timestamp(seconds=10**15))
    with pytest.raises(InvalidArgument) as refused:
        optional_timestamp_from_proto(request, "start_time", path)
    assert [violation.field for violation in refused.value.violations] == [field]


def test_a_duration_keeps_its_fraction() -> None:
    message = duration_to_proto(1.5)
    assert message is not None
    assert (message.seconds, message.nanos) == (1, 500_000_000)
