from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.cron import BadCron, BadTimeZone, next_fire_time

ZURICH = "Europe/Zurich"


def times(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The next times as the zone's clock shows them."""
    found, moment = [], datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    for _ in range(count):
        moment = next_fire_time(expression, zone, moment)
        found.append(moment.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes"))
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        ("*/15 * * * *", "", "2026-01-01T00:00", "2026-01-01T00:15"),
        ("30 6 * * mon-fri", "", "2026-01-02T06:30", "2026-01-05T06:30"),
        ("0 0 L * *", "", "2028-02-01T00:00", "2028-02-29T00:00"),
        ("0 0 29 2 *", "", "2026-01-01T00:00", "2028-02-29T00:00"),
        ("0 9 * * mon#1", "", "2026-11-03T00:00", "2026-12-07T09:00"),
        ("0 0 1 1 *", "Asia/Kathmandu", "2026-06-01T00:00", "2026-12-31T18:15"),
        ("30 6 * * *", "America/New_York", "2026-07-01T00:00", "2026-07-01T10:30"),
    ],
)
def test_the_next_time(expression: str, zone: str, after: str, expected: str) -> None:
    found = next_fire_time(expression, zone, datetime.fromisoformat(after).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert found.tzinfo is UTC


def test_a_time_that_the_clock_skips_comes_right_after_the_gap() -> None:
    assert times("30 2 * * *", ZURICH, "2026-03-28T12:00", 2) == ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]


def test_a_time_that_the_clock_shows_twice_counts_once() -> None:
    assert times("30 2 * * *", ZURICH, "2026-10-24T12:00", 2) == ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]


def test_a_time_that_has_passed_does_not_come_again_while_the_clock_shows_the_hour_for_the_second_time() -> None:
    second_time = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert second_time.astimezone(ZoneInfo(ZURICH)).isoformat() == "2026-10-25T02:10:00+01:00"
    assert next_fire_time("30 2 * * *", ZURICH, second_time) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_what_comes_every_so_often_comes_through_both_hours() -> None:
    found = times("*/30 * * * *", ZURICH, "2026-10-25T01:30", 5)
    assert [time[11:] for time in found] == ["02:00+02:00", "02:30+02:00", "02:00+01:00", "02:30+01:00", "03:00+01:00"]


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("60 * * * *", "the minute "),
        ("* 24 * * *", "the hour "),
        ("* * 0 * *", "the day-of-month "),
        ("* * * 13 *", "the month "),
        ("* * * * someday", "the day-of-week "),
        ("*/0 * * * *", "the minute "),
        ("5-1 * * * *", "the minute "),
        ("* * * * mon#1/2", "the day-of-week "),
        ("H H * * *", "the minute "),
        ("R R * * *", "the minute "),
        ("@daily", "five fields"),
        ("* * * *", "five fields"),
        ("0 * * * * *", "five fields"),
        ("0 0 31 2 *", "the day-of-month "),
        ("0 0 31 2 mon#6", "the day-of-week "),
        ("0 0 30 feb L", "the day-of-week "),
        ("", "five fields"),
    ],
)
def test_what_is_no_cron_expression_is_told_by_field(expression: str, told: str) -> None:
    with pytest.raises(BadCron, match=told):
        next_fire_time(expression, "", datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "zone", ["Europe/Zürich", "zurich", "../../etc/passwd", "Europe", "UTC+1", "\0", "/etc/localtime"]
)
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(BadTimeZone):
        next_fire_time("* * * * *", zone, datetime(2026, 1, 1, tzinfo=UTC))


def test_near_time_zones_are_named() -> None:
    with pytest.raises(BadTimeZone, match="Europe/Zurich"):
        next_fire_time("* * * * *", "Europe/Zurick", datetime(2026, 1, 1, tzinfo=UTC))


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    spans = st.tuples(number, number).map(lambda pair: "-".join(map(str, sorted(pair))))
    steps = st.integers(1, high).map(lambda step: f"*/{step}")
    return st.one_of(
        st.just("*"), number.map(str), spans, steps, st.lists(number, min_size=1).map(lambda n: ",".join(map(str, n)))
    )


EXPRESSIONS = st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6)).map(" ".join)
ZONES = st.sampled_from(["", ZURICH, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"])
MOMENTS = st.integers(0, 6 * 366 * 86_400 * 1000).map(
    lambda ms: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)


@given(EXPRESSIONS, ZONES, MOMENTS)
def test_times_rise_and_are_whole_minutes_that_the_expression_names(
    expression: str, zone: str, after: datetime
) -> None:
    first = next_fire_time(expression, zone, after)
    second = next_fire_time(expression, zone, first)
    assert after < first < second
    for moment in (first, second):
        assert (moment.second, moment.microsecond) == (0, 0)
    # Just before a time comes that time, however often one asks.
    assert next_fire_time(expression, zone, first - timedelta(microseconds=1)) == first


@given(EXPRESSIONS, MOMENTS)
def test_nothing_between_two_times_is_named_by_the_expression(expression: str, after: datetime) -> None:
    first = next_fire_time(expression, "", after)
    assert not any(_named(expression, moment) for moment in _minutes(after, first)), first
    assert _named(expression, first)


def _minutes(after: datetime, before: datetime) -> list[datetime]:
    """Some of the whole minutes between two moments, the first and last hours of them whole."""
    first = after.replace(second=0, microsecond=0) + timedelta(minutes=1)
    count = int((before - first) / timedelta(minutes=1))
    chosen = {*range(min(count, 60)), *range(max(count - 60, 0), count), *range(0, count, 61)}
    return [first + timedelta(minutes=minute) for minute in sorted(chosen)]


def _named(expression: str, moment: datetime) -> bool:
    minute, hour, day, month, weekday = (
        _numbers(part, low, high)
        for part, (low, high) in zip(expression.split(), ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6)), strict=True)
    )
    days, weekdays = moment.day in day, (moment.weekday() + 1) % 7 in weekday
    starred = any(part.startswith("*") for part in (expression.split()[2], expression.split()[4]))
    on_day = (days and weekdays) if starred else (days or weekdays)
    return moment.minute in minute and moment.hour in hour and moment.month in month and on_day


def _numbers(part: str, low: int, high: int) -> set[int]:
    if part.startswith("*"):
        step = int(part.removeprefix("*/")) if "/" in part else 1
        return set(range(low, high + 1, step))
    found: set[int] = set()
    for term in part.split(","):
        first, _, last = term.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
