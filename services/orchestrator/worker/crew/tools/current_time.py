"""The present date and time."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from services.common.clock import utc_now
from services.orchestrator.worker.crew.tools.base import JournaledTool, ToolFailed


def describe(moment: datetime, time_zone: str) -> str:
    """Return a moment in a time zone as ISO 8601 with the weekday.

    Raises:
        ToolFailed: the time zone does not exist.
    """
    try:
        local = moment.astimezone(ZoneInfo(time_zone))
    except (LookupError, ValueError, OSError) as error:
        raise ToolFailed(f"there is no time zone {time_zone!r}; name one like Europe/Zurich or UTC") from error
    return f"{local.isoformat(timespec='seconds')} ({local:%A}, {time_zone})"


class CurrentTime(JournaledTool):
    """Returns the present date and time."""

    def perform(self, **arguments: Any) -> str:
        """Return the present moment in the zone asked for."""
        zone = arguments.get("time_zone") or self._config.get("time_zone", "UTC")
        return describe(utc_now(), zone)
