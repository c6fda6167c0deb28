"""Tells the host which tools a task uses. Model calls it sees itself, as it makes them."""

import json
from collections.abc import Callable
from typing import Any

from services.orchestrator.worker.crew.session import TaskRun

LONGEST_TEXT = 4096


def tool_events(run: TaskRun) -> Callable[[Any, Any], None]:
    """Return the sink that CrewAI's events of one run of a task go to."""

    def sink(_source: Any, event: Any) -> None:
        if event.type == "tool_usage_started":
            arguments = (
                event.tool_args if isinstance(event.tool_args, str) else json.dumps(event.tool_args, default=str)
            )
            run.notify(
                "tool.started",
                {"call_id": event.event_id, "tool": event.tool_name, "arguments": arguments[:LONGEST_TEXT]},
            )
        elif event.type == "tool_usage_finished":
            run.notify(
                "tool.completed",
                {
                    "call_id": event.started_event_id or event.event_id,
                    "tool": event.tool_name,
                    "output": str(event.output)[:LONGEST_TEXT],
                },
            )
        elif event.type == "tool_usage_error":
            run.notify(
                "tool.failed",
                {
                    "call_id": event.started_event_id or event.event_id,
                    "tool": event.tool_name,
                    "message": str(event.error)[:LONGEST_TEXT],
                },
            )

    return sink
