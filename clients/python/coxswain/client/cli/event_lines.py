"""Events as lines for people: long texts are cut, and not said again where an earlier line has said the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coxswain.client.later import execution_pb2, progress

if TYPE_CHECKING:
    from google.protobuf.message import Message


MAX_SHOWN_TEXT = 120
"""Characters of a long text in a line; the whole stands in --wide and --json."""

_LONG_TEXTS = {
    "execution_failed": ("error", "message"),
    "task_failed": ("error", "message"),
    "guardrail_refused": ("message",),
    "llm_call_failed": ("message",),
    "llm_call_waiting": ("message",),
    "tool_call_failed": ("message",),
    "tool_outcome_unknown": ("message",),
    "tool_call_started": ("arguments_json",),
    "tool_call_progress": ("text",),
    "question_answered": ("decline_reason",),
    "schedule_started_nothing": ("error", "message"),
}


class EventLines:
    """The lines of events that follow each other; ``whole`` keeps every text as it is."""

    def __init__(self, *, whole: bool = False) -> None:
        self._whole = whole
        self._said = ("", "", "")

    def line(self, event: execution_pb2.ExecutionEvent) -> str:
        """The event in one line; empty for those that have none."""
        what = event.WhichOneof("event") or ""
        if self._whole or what not in _LONG_TEXTS:
            return progress.describe(event)
        shown = execution_pb2.ExecutionEvent()
        shown.CopyFrom(event)
        holder: Message = getattr(shown, what)
        *path, name = _LONG_TEXTS[what]
        for step in path:
            holder = getattr(holder, step)
        text = " ".join(str(getattr(holder, name)).split())
        # Several events tell of one failure; arguments are the same only where the same tool has them.
        said = (event.execution_id, event.tool_call_started.tool_name if what == "tool_call_started" else "", text)
        if len(text) > MAX_SHOWN_TEXT:
            text = "as before" if said == self._said else text[: MAX_SHOWN_TEXT - 1].rstrip() + "…"
        setattr(holder, name, text)
        self._said = said
        return progress.describe(shown)
