"""Reports which tools a task uses. The calls that the host makes itself need no report."""

import json
from collections.abc import Callable
from typing import Any

from services.orchestrator.worker.crew.attempt import TaskAttempt

LONGEST_TEXT = 4096


def tool_events(attempt: TaskAttempt) -> Callable[[Any, Any], None]:
    """Return the sink that CrewAI's events of one attempt at a task go to."""
    host, host_tools = attempt.host, attempt.session.host_tools

    def sink(_source: Any, event: Any) -> None:
        if getattr(event, "tool_name", None) in host_tools:
            return
        if event.type == "tool_usage_started":
            arguments = event.tool_args
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments, default=str)
            host.tool_call_started(event.event_id, event.tool_name, arguments[:LONGEST_TEXT])
        elif event.type == "tool_usage_finished":
            call_id = event.started_event_id or event.event_id
            if event.failure is not None:
                host.tool_call_failed(call_id, event.tool_name, event.failure.message[:LONGEST_TEXT])
                return
            host.tool_call_completed(call_id, event.tool_name, str(event.output)[:LONGEST_TEXT])
        elif event.type == "tool_usage_error":
            call_id = event.started_event_id or event.event_id
            host.tool_call_failed(call_id, event.tool_name, str(event.error)[:LONGEST_TEXT])

    return sink
