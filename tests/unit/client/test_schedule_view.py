"""Schedules are shown with all that a person needs to know."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from zoneinfo import available_timezones

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from coxswain.client.cli.listing import WHOLE_WIDTH, Listing
from coxswain.client.cli.schedule_view import moment, schedule_details, schedule_table
from coxswain.client.results import start_request
from coxswain.orchestrator.v1.execution_pb2 import ExecutionError
from coxswain.orchestrator.v1.schedule_pb2 import Schedule

REFUSED = ExecutionError(reason="NOT_FOUND", message="crew c does not exist;\ncreate it")


def shown(table: Table | Listing) -> str:
    console = Console(file=StringIO(), width=WHOLE_WIDTH)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def row(schedule: Schedule, name: str, crew_name: str = "brief") -> str:
    lines = shown(schedule_details(schedule, crew_name)).splitlines()
    return next((line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")), "")


@given(
    st.integers(0, 4_102_444_800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    st.sampled_from(["", *sorted(available_timezones())]),
)
def test_a_time_names_its_moment_in_any_zone(at: datetime, zone: str) -> None:
    schedule = Schedule(time_zone=zone)
    schedule.next_fire_time.FromDatetime(at)
    shown_time = datetime.fromisoformat(moment(schedule, "next_fire_time"))
    assert timedelta() <= at - shown_time < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("zone", "text"),
    [
        ("Europe/Zurich", "2027-01-01 00:30+01:00"),
        ("", "2026-12-31 23:30+00:00"),
        # A machine may know fewer zones than the server.
        ("Atlantis/Capital", "2026-12-31 23:30+00:00"),
    ],
)
def test_a_time_is_shown_in_the_schedules_own_zone(zone: str, text: str) -> None:
    schedule = Schedule(time_zone=zone)
    schedule.next_fire_time.FromDatetime(datetime(2026, 12, 31, 23, 30, tzinfo=UTC))
    assert moment(schedule, "next_fire_time") == text
    assert row(schedule, "next") == text
    assert text in shown(schedule_table([schedule]))


def test_the_list_tells_which_schedules_start_nothing() -> None:
    schedules = [
        Schedule(name="well", next_fire_time=Timestamp(), last_execution_id="e1"),
        Schedule(name="failing", next_fire_time=Timestamp(), last_error=REFUSED),
        Schedule(name="off", paused=True, last_error=REFUSED),
        Schedule(name="past"),
    ]
    states = {line.split()[0]: line for line in shown(schedule_table(schedules)).splitlines()[1:]}
    assert states["well"].split() == ["well", "on", "UTC", "e1"]
    assert " failed: NOT_FOUND " in states["failing"]
    assert " over " in states["past"]
    assert " paused " in states["off"]


def test_why_a_schedule_started_nothing_is_told_whole_on_one_line() -> None:
    cell = row(Schedule(name="failing", last_error=REFUSED), "last error")
    assert cell == "crew c does not exist; create it (NOT_FOUND)"
    assert row(Schedule(name="well"), "last error") == ""


def test_what_it_starts_is_told() -> None:
    start = start_request("c", {"text": "a", "many": [1, "x"]}, timeout=1.5, model="m", labels={"b": "2", "a": "1"})
    schedule = Schedule(start=start, subject="dev|alice")
    expected = {
        "crew": "brief newest revision (c)",
        "model": "m",
        "within": "1.5 s",
        "labels": "a=1, b=2",
        "acts as": "the group, for dev|alice",
        "input text": "a",
        "input many": '[1.0, "x"]',
    }
    assert {name: row(schedule, name) for name in expected} == expected
    start.crew_revision = 3
    schedule.start.CopyFrom(start)
    assert row(schedule, "crew") == "brief revision 3 (c)"
    assert row(schedule, "crew", crew_name="") == "deleted (c)"


@pytest.mark.parametrize("text", ["a" * 1_000_000, "a\n" * 1_000_000], ids=["one word", "lines"])
def test_a_long_input_is_cut_off_visibly(text: str) -> None:
    cell = row(Schedule(start=start_request("c", {"text": text})), "input text")
    assert len(cell) < 210
    assert cell.endswith("…")


def test_an_input_commands_no_terminal() -> None:
    schedule = Schedule(start=start_request("c", {"text": "\x1b[2Jgone [bold]?[/bold]"}))
    assert row(schedule, "input text") == "\ufffd[2Jgone [bold]?[/bold]"
