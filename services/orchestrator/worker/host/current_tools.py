"""What tools are now: sources, their policies and what is accepted of them may change while an execution runs."""

from collections.abc import Awaitable, Callable, Mapping

from services.common.cache import AsyncCache
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.tool_identity import source_of

_GROUPS = 10_000
_SECONDS = 2.0
"""For how long a change may go unnoticed: the calls of a group in that time cost one statement together."""


class SourceVersions:
    """The versions of the sources of groups, as all runs of a host know them."""

    def __init__(self, read: Callable[[str], Awaitable[Mapping[str, str]]], *, known_seconds: float = _SECONDS) -> None:
        """`read` returns the version of each source of a group, by its name."""
        self._read = read
        self._known: AsyncCache[str, Mapping[str, str]] = AsyncCache(_GROUPS, known_seconds)

    async def of(self, group_id: str, source: str) -> str:
        """Return the version of a source, some seconds old at most; empty: the group has none of that name."""
        return (await self._known.get(group_id, lambda: self._read(group_id))).get(source, "")

    async def close(self) -> None:
        """End what is being read."""
        await self._known.close()


class CurrentTools:
    """The tools of one execution."""

    def __init__(
        self,
        group_id: str,
        versions: SourceVersions,
        resolve: Callable[[ResolvedTool], Awaitable[ResolvedTool]],
    ) -> None:
        """`resolve` returns a tool anew, by what is stored now."""
        self._group_id = group_id
        self._versions = versions
        self._resolve = resolve
        self._newer: dict[str, ResolvedTool] = {}

    async def now(self, tool: ResolvedTool) -> ResolvedTool:
        """Return a tool under the policy in force, which may be one that cannot be used any more.

        Raises:
            CoxswainError: the database is away.
        """
        if tool.spec is None or not (source := source_of(tool.name)):
            return tool
        version = await self._versions.of(self._group_id, source)
        key = repr(tool.spec)
        for known in (tool, self._newer.get(key)):
            if known is not None and known.source_version == version:
                return known
        # Between the two reads it may have changed again, which the next call sees.
        self._newer[key] = await self._resolve(tool)
        return self._newer[key]
