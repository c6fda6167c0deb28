"""Sources of tools as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from coxswain.client.cli.listing import Listing
from coxswain.client.cli.secrets import secret_name
from coxswain.client.cli.session import Session, add_row, harmless, one_line, styled, table
from coxswain.client.later import tool_source_pb2

if TYPE_CHECKING:
    from rich.console import Group


def source_table(session: Session, sources: Iterable[tool_source_pb2.ToolSource]) -> Listing:
    """A row for each source."""
    made = Listing("name", "speaks", ">tools", "state")
    for source in sources:
        add_row(
            made, source.spec.name, source.spec.WhichOneof("kind") or "", source.tool_count, _state(session, source)
        )
    return made


def source_details(session: Session, source: tool_source_pb2.ToolSource, stale_crews: list[str]) -> Group:
    """Everything about a source but its policies, which --json shows."""
    spec = source.spec
    made = table("field", "what")
    kind = spec.WhichOneof("kind") or ""
    part = getattr(spec, kind) if kind else None
    where = next((getattr(part, name) for name in ("url", "address", "base_url") if hasattr(part, name)), "")
    for field, value in (
        ("name", spec.name),
        ("id", source.id),
        ("description", spec.description),
        ("speaks", f"{kind} {where}".strip()),
        ("authentication", _authentication(spec)),
        ("state", _state(session, source)),
        ("tools", str(source.tool_count)),
        ("policies", str(len(spec.policies))),
        ("on change", tool_source_pb2.OnToolChange.Name(spec.on_change).removeprefix("ON_TOOL_CHANGE_").lower()),
        ("declared by", "the operator" if source.managed_by_operator else "the group"),
        ("stale crews", ", ".join(stale_crews)),
    ):
        if value:
            add_row(made, field, one_line(value))
    lines = [*(f"warning: {one_line(warning)}" for warning in source.warnings), *map(change_line, source.changes)]
    from rich.console import Group

    return Group(made, *(styled(harmless(line)) for line in lines))


def change_line(change: tool_source_pb2.ToolChange) -> str:
    """A change of a tool in one line."""
    kind = tool_source_pb2.ToolChange.Kind.Name(change.kind).removeprefix("KIND_").lower()
    parts = f" ({', '.join(change.parts)})" if change.parts else ""
    return f"{kind} {one_line(change.tool)}{parts} since {change.time.ToDatetime():%Y-%m-%d %H:%M} UTC"


def _authentication(spec: tool_source_pb2.ToolSourceSpec) -> str:
    kind = spec.WhichOneof("auth") or "none"
    name = secret_name(spec)
    return f"{kind} {name}" if name else kind


def _state(session: Session, source: tool_source_pb2.ToolSource) -> str:
    if source.spec.disabled:
        return "disabled"
    if source.problem:
        return f"not usable: {one_line(session.own(source.problem))}"
    if source.list_error:
        return f"cannot be listed: {one_line(session.own(source.list_error))}"
    return f"{len(source.changes)} changes to accept" if source.changes else "ready"
