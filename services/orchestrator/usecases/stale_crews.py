"""Which tools of a crew are no longer what it was stored with."""

from collections.abc import Mapping

from services.orchestrator.domain.tool_source import ToolSource
from services.orchestrator.tool_identity import source_of, tool_of


def changed_tools(pins: Mapping[str, str], sources: Mapping[str, ToolSource]) -> list[str]:
    """Return the pinned tools of `sources` that have changed and were not accepted since, by name."""
    return sorted(
        name
        for name, pinned in pins.items()
        if (source := sources.get(source_of(name))) is not None and not _is_known(source, tool_of(name), pinned)
    )


def _is_known(source: ToolSource, name: str, pinned: str) -> bool:
    accepted = source.accepted.get(name)
    known = {pinned} if accepted is None else {pinned, accepted.hash}
    return any(tool.name == name and tool.hash in known for tool in source.tools)
