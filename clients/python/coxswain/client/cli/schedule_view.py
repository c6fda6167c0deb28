"""Schedules as people read them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from coxswain.client.cli.limits import limits_text
from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.session import add_row, one_line, plain, styled, table
from coxswain.client.later import schedule_pb2, struct_pb2

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


_SHOWN_CHARACTERS = 200


def schedule_table(schedules: Iterable[schedule_pb2.Schedule]) -> Listing:
    """A table with one row for each schedule."""
    made = Listing("name", "cron", "next", "state", "zone", "last", "last execution")
    for schedule in schedules:
        state = _state(schedule)
        if not schedule.paused and schedule.HasField("last_error"):
            state = styled(f"failed: {schedule.last_error.reason}", "red")
        add_row(
            made,
            schedule.name,
            schedule.cron,
            When(schedule.next_fire_time, moment(schedule, "next_fire_time")),
            state,
            schedule.time_zone or "UTC",
            When(schedule.last_fire_time, moment(schedule, "last_fire_time")),
            schedule.last_execution_id,
        )
    return made


def schedule_details(schedule: schedule_pb2.Schedule, crew_name: str) -> Table:
    """All details of a schedule; the name of its crew is empty when it was deleted; long inputs are shortened."""
    start = schedule.start
    revision = f"revision {start.crew_revision}" if start.crew_revision else "newest revision"
    error = schedule.last_error
    rows: dict[str, object] = {
        "id": schedule.id,
        "name": schedule.name,
        "state": _state(schedule),
        "cron": schedule.cron,
        "time zone": schedule.time_zone or "UTC",
        "next": moment(schedule, "next_fire_time"),
        "last": moment(schedule, "last_fire_time"),
        "last execution": schedule.last_execution_id,
        "last error": styled(f"{one_line(error.message)} ({error.reason})", "red") if error.reason else "",
        "crew": f"{f'{crew_name} {revision}' if crew_name else 'deleted'} ({start.crew_id or start.crew_name})",
        "model": start.model or "the crew's",
        "priority": start.priority,
        "within": f"{start.timeout.ToMilliseconds() / 1000:g} s" if start.HasField("timeout") else "",
        "limits": limits_text(start.limits),
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(start.labels.items())),
        "acts as": f"the group, for {schedule.subject}",
        "created": moment(schedule, "create_time"),
        "changed": moment(schedule, "update_time"),
    }
    rows |= {f"input {name}": _shortened(value) for name, value in sorted(start.inputs.items())}
    made = table("", "")
    for name, value in rows.items():
        if value != "":
            add_row(made, name, value)
    return made


def moment(
    schedule: schedule_pb2.Schedule, field: Literal["next_fire_time", "last_fire_time", "create_time", "update_time"]
) -> str:
    """A time of a schedule in its own zone, with the offset; empty where it has none."""
    if not schedule.HasField(field):
        return ""
    at = getattr(schedule, field).ToDatetime(tzinfo=UTC).astimezone(_zone(schedule.time_zone))
    return str(at.isoformat(sep=" ", timespec="minutes"))


def _zone(name: str) -> tzinfo:
    # This machine may know fewer zones than the server.
    try:
        return ZoneInfo(name) if name else UTC
    except ZoneInfoNotFoundError:
        return UTC


def _state(schedule: schedule_pb2.Schedule) -> Text:
    if schedule.paused:
        return styled("paused", "yellow")
    # The days it names have passed, or the server no longer has its zone.
    return styled("on", "green") if schedule.HasField("next_fire_time") else styled("over", "red")


def _shortened(value: struct_pb2.Value) -> str:
    text = value.string_value if value.HasField("string_value") else json.dumps(plain(value), ensure_ascii=False)
    text = one_line(text[: 2 * _SHOWN_CHARACTERS])
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
