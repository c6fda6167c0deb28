"""Whether a tool is still what a call was asked for: checked against the very definition that the call is made by."""

from dataclasses import replace

from services.orchestrator.domain.tool_source import ListedTool, OnToolChange
from services.orchestrator.tool_gateway.ports import CallRefused, ToolCallRequest
from services.orchestrator.tool_identity import listed_hash
from services.orchestrator.tool_resolver import is_idempotent


def is_pinned(request: ToolCallRequest) -> bool:
    """Return whether a call is made only if its tool is the one that is meant."""
    source = request.source
    return source is not None and source.on_change is OnToolChange.BLOCK and bool(request.tool_hash)


def has_changed(request: ToolCallRequest, listed: ListedTool) -> bool:
    """Return whether a tool, as its source lists it, is another one than a pinned call means."""
    if not is_pinned(request) or listed_hash(listed) == request.tool_hash:
        return False
    # A list that was stored before it was told apart how tools are called counts until it is read anew.
    return listed_hash(replace(listed, call_digest="")) != request.tool_hash


def refuse_changed(request: ToolCallRequest, listed: ListedTool) -> None:
    """Refuse a call of a tool that has changed where the source blocks changes, or that must not be repeated any more.

    One that says not which tool it means is not refused.

    Raises:
        CallRefused: TOOL_CHANGED.
    """
    source = request.source
    if source is None or not request.tool_hash:
        return
    if has_changed(request, listed):
        raise CallRefused(
            f"{request.tool} is no longer what was accepted: refresh the source {source.name}, look at the change "
            "(ListToolChanges), and have an admin accept it (AcceptToolChanges)",
            reason="TOOL_CHANGED",
        )
    if request.idempotent and not is_idempotent(source.kind, source.policy_for(request.tool), listed):
        # What could be repeated would be, which nobody has agreed to.
        raise CallRefused(
            f"{request.tool} must not be called twice any more: it has changed; refresh the source {source.name}",
            reason="TOOL_CHANGED",
        )
