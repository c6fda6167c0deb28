"""What has changed in the tools of a source, and accepting it: part of ToolSourceService."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import to_json

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Aborted, FieldViolation, InvalidArgument, NotFound
from services.common.identity.principal import Principal
from services.common.paging import Page, Pager
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.tool_source import AcceptedTool, ToolDifference, ToolSource
from services.orchestrator.repositories.tool_sources import ToolSourceRepository
from services.orchestrator.suggestions import few_suggestions, suggestion
from services.orchestrator.usecases.tool_lists import accepted_tools, tool_changes, tool_differences
from services.orchestrator.usecases.tool_sources import ToolSources

_DIFFERENCES = Pager("tool_changes")


class ToolSourceChanges:
    """Shows and accepts what sources list otherwise than before."""

    def __init__(self, database: Database, sources: ToolSources) -> None:
        self._database = database
        self._sources = sources

    async def differences(
        self, principal: Principal, key: ResourceKey, size: int, token: str
    ) -> tuple[ToolSource, Page[ToolDifference]]:
        """Return a source, and a page of its changes that nobody has accepted, by tool, each with both texts.

        Raises:
            InvalidArgument: INVALID_PAGE_TOKEN.
            NotFound: the group does not have this source.
        """
        source = await self._sources.stored(principal, key)
        found = tool_differences(source)
        sizes: dict[str, int] = {}

        async def read(after: list[Any] | None, limit: int) -> list[ToolDifference]:
            first = after[0] if after else ""
            portion = [one for one in found if one.change.tool > first][:limit]
            # Schemas may be large: not in the event loop.
            sizes.update(await asyncio.to_thread(_sizes, portion))
            return portion

        page = await _DIFFERENCES.page(
            size,
            token,
            {"source": source.id},
            read,
            lambda one: [one.change.tool],
            lambda one: sizes[one.change.tool],
        )
        return source, page

    async def accept(
        self, principal: Principal, key: ResourceKey, tools: Collection[str], list_revision: int
    ) -> ToolSource:
        """Make the tools as they are listed now the accepted ones: those named, or all.

        Raises:
            InvalidArgument: a tool that is named has not changed.
            NotFound: the group does not have this source.
            Aborted: the list is not at `list_revision`.
        """
        while True:
            present = await self._sources.stored(principal, key)
            # Large lists take a while: neither the event loop nor whoever wants the lock waits for that.
            listed = await asyncio.to_thread(_accepted_by, present, tools)
            async with self._database.write() as connection:
                sources = ToolSourceRepository(connection)
                locked = await sources.lock(principal.group_id, present.id)
                if locked is None:
                    raise NotFound.by_key("tool source", key)
                if list_revision != locked.list_revision:
                    raise Aborted.revision("list of the tool source", str(key), list_revision, locked.list_revision)
                if locked.list_revision != present.list_revision:
                    continue
                chosen = {name for name in listed.keys() | locked.accepted.keys() if not tools or name in tools}
                accepted = {name: tool for name, tool in locked.accepted.items() if name not in chosen}
                accepted |= {name: tool for name, tool in listed.items() if name in chosen}
                now = utc_now()
                changes = tool_changes(accepted, locked.tools, now, locked.changes)
                after = replace(locked, accepted=accepted, changes=changes, updated_at=now)
                await sources.save(after, None if locked.from_operator else principal.subject)
            return after


def _accepted_by(source: ToolSource, tools: Collection[str]) -> dict[str, AcceptedTool]:
    """Return what is kept of a source's tools if they are accepted. Raises InvalidArgument: it lacks one of `tools`."""
    _refuse_unknown(source, tools)
    return accepted_tools(source.tools)


def _refuse_unknown(source: ToolSource, tools: Collection[str]) -> None:
    known = {change.tool for change in source.changes} | source.accepted.keys() | {tool.name for tool in source.tools}
    with few_suggestions():
        faults = [
            FieldViolation(f"tools[{index}]", f'the source has no tool "{name}"; {suggestion(name, known)}')
            for index, name in enumerate(tools)
            if name not in known
        ]
    if faults:
        raise InvalidArgument.fields(faults)


def _sizes(differences: Sequence[ToolDifference]) -> dict[str, int]:
    """Return about how many bytes of a message each difference takes, by its tool."""
    return {
        one.change.tool: len(to_json([to_document(tool) for tool in (one.before, one.after) if tool])) + 256
        for one in differences
    }
