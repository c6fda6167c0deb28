"""The date that agents are told."""

from datetime import datetime
from zoneinfo import ZoneInfo

from services.orchestrator.domain.crew import AgentSpec

_DEFAULT_FORMAT = "%Y-%m-%d"


def date_for(agent: AgentSpec, moment: datetime) -> str:
    """Return the date of a moment as an agent is told it, or nothing if it is told none."""
    if not agent.inject_date:
        return ""
    zone = ZoneInfo(agent.date_time_zone or "UTC")
    return moment.astimezone(zone).strftime(agent.date_format or _DEFAULT_FORMAT)
