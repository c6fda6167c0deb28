"""When schedules fire: cron expressions in time zones."""

import difflib
import functools
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

_RANGES = {
    "minute": "from 0 to 59",
    "hour": "from 0 to 23",
    "day-of-month": "from 1 to as many days as the months have, L for the last",
    "month": "from 1 to 12 or jan to dec",
    "day-of-week": "from 0 (Sunday) to 7 or sun to sat; fri#2 is the second Friday, 5L the last",
}


class BadCron(ValueError):
    """The expression is not valid, or names times that never come."""


class BadTimeZone(ValueError):
    """No time zone has that name."""


def next_fire_time(expression: str, time_zone: str, after: datetime) -> datetime:
    """Return the first moment after another at which a schedule fires, in UTC; an empty `time_zone` is UTC.

    Days and clock changes are taken as Debian's cron takes them: a time of day that is skipped comes right after the
    gap, one that comes twice counts once, unless minute or hour begin with a star.

    Raises:
        BadCron: `expression` is not a cron expression of five fields, or never fires.
        BadTimeZone: the time zone does not exist.
    """
    # CronSim would take a sixth one for seconds.
    if len(expression.split()) != len(_RANGES):
        raise BadCron("give five fields: minute, hour, day of month, month, day of week")
    try:
        moments = CronSim(expression, after.astimezone(zone_of(time_zone)))
    except CronSimError as error:
        raise BadCron(_explained(str(error), expression)) from error
    # What the clock shows twice may be named again while it is shown for the second time.
    for moment in moments:
        if moment.astimezone(UTC) > after:
            return moment.astimezone(UTC)
    raise BadCron("names a day that never comes")


def _explained(error: str, expression: str) -> str:
    """Return what is wrong with the field that CronSim names, as in "Bad day-of-month"."""
    name = error.removeprefix("Bad ")
    if name not in _RANGES:
        return f"{error.lower()}; a valid example: 30 6 * * mon-fri"
    given = expression.split()[list(_RANGES).index(name)]
    return f'the {name} "{given}" is not valid or never comes; it goes {_RANGES[name]}'


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone of a name of the IANA database; an empty one is UTC. Raises BadTimeZone."""
    if not name:
        return ZoneInfo("UTC")
    # ZoneInfo alone would look for a file of any name.
    if name not in time_zones():
        near = difflib.get_close_matches(name, time_zones(), 3)
        raise BadTimeZone(
            "is not a time zone of the IANA database"
            + (f"; near ones are {', '.join(near)}" if near else "; an example is Europe/Zurich")
        )
    return ZoneInfo(name)


@functools.cache
def time_zones() -> frozenset[str]:
    """Return the names of all time zones; the first time it reads files."""
    # These two are what the machine makes of them.
    return frozenset(available_timezones() - {"Factory", "localtime"})
