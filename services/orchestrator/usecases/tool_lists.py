"""Lists of tools as sources give them: what of them is kept, and how two of them differ.

Texts in them are a stranger's: models read them, so nothing in them may be hidden from people.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from services.orchestrator.domain.tool_source import (
    AcceptedTool,
    ListedTool,
    ToolChange,
    ToolChangeKind,
    ToolDifference,
    ToolSource,
)
from services.orchestrator.schemas.references import reference_error
from services.orchestrator.schemas.tool_schemas import schema_fault
from services.orchestrator.tool_identity import digest_of, listed_hash
from services.orchestrator.tool_resolver import EVERY_TOOL

MAX_TOOLS = 512
MAX_DESCRIPTION_BYTES = 4096
_MAX_NAME = 128
_MAX_TITLE = 256
_MAX_CALL = 4096
_MAX_WARNINGS = 50
_PARTS = ("description", "arguments_schema", "output_schema", "idempotent_hint", "call_digest")
_CALL_PART = "call_digest"
# Control characters, and those that are not shown or turn the order of others around; unassigned and private ones too.
_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs"})
_SHOWN_CONTROLS = frozenset("\n\t")


@dataclass(frozen=True, slots=True)
class CleanList:
    """The tools of a source that can be used, by name."""

    tools: tuple[ListedTool, ...]
    warnings: tuple[str, ...]
    """What was left out, and why."""
    accepted: Mapping[str, AcceptedTool]
    """What is kept of the tools if they are accepted."""


def clean_list(listed: Sequence[ListedTool]) -> CleanList:
    """Return what is kept of a list, each tool with its hash.

    It may take a second for a large list: not in an event loop.
    """
    tools: dict[str, ListedTool] = {}
    warnings: list[str] = []
    for tool in sorted(listed, key=lambda tool: tool.name):
        if len(tools) == MAX_TOOLS:
            warnings.append(f"it lists {len(listed)} tools; the first {MAX_TOOLS} by name are kept")
            break
        shown = " ".join(shown_text(tool.name).split())[:_MAX_NAME]
        if fault := _name_fault(tool.name) or ("is listed twice" if tool.name in tools else ""):
            warnings.append(f'the tool "{shown}" is left out: its name {fault}')
        elif fault := schema_fault(tool.arguments_schema):
            warnings.append(f'the tool "{shown}" is left out: the schema of its arguments {fault}')
        else:
            tools[tool.name] = _clean(tool)
    if len(warnings) > _MAX_WARNINGS:
        # What comes last may be that the list was cut.
        left = len(warnings) - _MAX_WARNINGS
        warnings = [*warnings[: _MAX_WARNINGS - 1], f"and {left} warnings more", warnings[-1]]
    return CleanList(tuple(tools.values()), tuple(map(shown_text, warnings)), accepted_tools(tools.values()))


def _name_fault(name: str) -> str:
    if not name or name == EVERY_TOOL:
        return "is empty" if not name else f'is "{EVERY_TOOL}", which stands for all tools'
    if len(name) > _MAX_NAME:
        return f"has {len(name)} characters and may have {_MAX_NAME}"
    if not name.isprintable() or shown_text(name) != name or name != name.strip():
        return "holds characters that are not shown"
    return ""


def _clean(tool: ListedTool) -> ListedTool:
    warnings = [warning[:500] for warning in tool.warnings[:10]]
    description = shown_text(tool.description)
    if description != tool.description:
        warnings.append("characters that are not shown were removed from its description")
    if len(description.encode()) > MAX_DESCRIPTION_BYTES:
        description = description.encode()[:MAX_DESCRIPTION_BYTES].decode(errors="ignore")
        warnings.append(f"its description was cut after {MAX_DESCRIPTION_BYTES} bytes")
    arguments = _shown_schema(tool.arguments_schema)
    if arguments != tool.arguments_schema:
        warnings.append("characters that are not shown were removed from the schema of its arguments")
    if lost := reference_error(arguments):
        warnings.append(f"the schema of its arguments: {lost}; calls that need it may be refused")
    output = tool.output_schema
    if output is not None and (fault := schema_fault(output)):
        output = None
        warnings.append(f"the schema of its results {fault}; results are not checked by it")
    elif output is not None and (lost := reference_error(output)):
        warnings.append(f"the schema of its results: {lost}; results that need it are not checked")
    clean = replace(
        tool,
        title=shown_text(tool.title)[:_MAX_TITLE],
        description=description,
        arguments_schema=arguments,
        output_schema=output,
        warnings=tuple(map(shown_text, warnings)),
        call=shown_text(tool.call)[:_MAX_CALL],
    )
    # The gateway compares its own hash with each call; what is shown may differ in what was removed.
    return clean if tool.hash else replace(clean, hash=listed_hash(clean))


def shown_text(text: str) -> str:
    """Return a text without the characters of it that are not shown."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        for character in text
        if character in _SHOWN_CONTROLS or unicodedata.category(character) not in _HIDDEN
    )


def _shown_schema(value: Any) -> Any:
    """Return a schema whose descriptions and titles hold nothing that is not shown. It is shallow."""
    if isinstance(value, Mapping):
        return {
            key: shown_text(item) if key in {"description", "title"} and isinstance(item, str) else _shown_schema(item)
            for key, item in value.items()
        }
    return [_shown_schema(item) for item in value] if isinstance(value, list) else value


def accepted_tools(tools: Iterable[ListedTool]) -> dict[str, AcceptedTool]:
    """Return what is kept of tools that are accepted."""
    return {tool.name: AcceptedTool(tool.hash, _part_hashes(tool)) for tool in tools}


def with_calls(
    accepted: Mapping[str, AcceptedTool], listed: Mapping[str, AcceptedTool], changes: Iterable[ToolChange]
) -> dict[str, AcceptedTool]:
    """Return what is accepted with how tools are called, where that was not told apart when they were accepted.

    `listed` is what is kept of the newest list if it is accepted. A tool of which anything else is different, or has
    been so in `changes`, stays as it was accepted.
    """
    changed = {
        change.tool for change in changes if change.kind is ToolChangeKind.CHANGED and change.parts != (_CALL_PART,)
    }
    return {
        name: found
        if (found := listed.get(name)) is not None and name not in changed and _adds_call_only(tool, found)
        else tool
        for name, tool in accepted.items()
    }


def _adds_call_only(accepted: AcceptedTool, listed: AcceptedTool) -> bool:
    call = listed.parts[_CALL_PART]
    return (
        bool(accepted.parts)
        and _CALL_PART not in accepted.parts
        and call != _NOTHING
        and {**accepted.parts, _CALL_PART: call} == listed.parts
    )


def with_replaced(
    accepted: Mapping[str, AcceptedTool], before: Iterable[ListedTool], after: Iterable[ListedTool]
) -> dict[str, AcceptedTool]:
    """Return what is accepted with the tools that a list does not have any more as they were in the one before."""
    old = {tool.name: tool for tool in before}
    hashes = {tool.name: tool.hash for tool in after}
    return {
        name: replace(tool, before=old[name])
        if name in old and old[name].hash == tool.hash != hashes.get(name)
        else tool
        for name, tool in accepted.items()
    }


def tool_differences(source: ToolSource) -> list[ToolDifference]:
    """Return the changes of a source that nobody has accepted, by tool, with both texts."""
    listed = {tool.name: tool for tool in source.tools}
    return [
        ToolDifference(
            change,
            accepted.before if (accepted := source.accepted.get(change.tool)) else None,
            listed.get(change.tool),
        )
        for change in source.changes
    ]


def tool_changes(
    accepted: Mapping[str, AcceptedTool],
    tools: Iterable[ListedTool],
    at: datetime,
    known: Iterable[ToolChange] = (),
) -> tuple[ToolChange, ...]:
    """Return how tools differ from the accepted ones, by name; a change that is `known` keeps its time."""
    listed = {tool.name: tool for tool in tools}
    since = {(change.tool, change.kind, change.parts): change.at for change in known}
    found: list[tuple[str, ToolChangeKind, tuple[str, ...]]] = [
        *((name, ToolChangeKind.REMOVED, ()) for name in accepted.keys() - listed.keys()),
        *((name, ToolChangeKind.ADDED, ()) for name in listed.keys() - accepted.keys()),
        *(
            (name, ToolChangeKind.CHANGED, _different_parts(accepted[name], tool))
            for name, tool in listed.items()
            if name in accepted and accepted[name].hash != tool.hash
        ),
    ]
    return tuple(
        ToolChange(name, kind, since.get((name, kind, parts), at), parts) for name, kind, parts in sorted(found)
    )


def _different_parts(accepted: AcceptedTool, tool: ListedTool) -> tuple[str, ...]:
    present = _part_hashes(tool)
    return tuple(part for part in _PARTS if accepted.parts.get(part, _NOTHING) != present[part])


def _part_hashes(tool: ListedTool) -> dict[str, str]:
    return {part: _digest(getattr(tool, part)) for part in _PARTS}


def _digest(value: Any) -> str:
    return digest_of(value)[:16]


# Of a part that was not told apart when the tool was accepted.
_NOTHING = _digest("")
