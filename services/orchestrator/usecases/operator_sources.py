"""Sources of tools that the operator declares: each group that may use one has a row of it, which it cannot change."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from services.common.cache import ExpiringCache
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import AlreadyExists
from services.common.ids import new_id
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.tool_source import ToolSource, ToolSourceSpec
from services.orchestrator.repositories.tool_sources import ToolSourceRepository

logger = structlog.get_logger(__name__)

_KNOWN_GROUPS = 10_000
_KNOWN_SECONDS = 300.0
_READ_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class OperatorSource:
    """A source and the groups it is for."""

    spec: ToolSourceSpec
    groups: frozenset[str] | None = None
    """None: all of them."""

    def is_for(self, group_id: str) -> bool:
        """Return whether a group may use it."""
        return self.groups is None or group_id in self.groups


class OperatorSources:
    """Gives groups their rows of what the operator declares, when they first need them."""

    def __init__(self, database: Database, declared: Sequence[OperatorSource]) -> None:
        self._database = database
        self._declared = tuple(declared)
        self._synced: ExpiringCache[str, bool] = ExpiringCache(_KNOWN_GROUPS)

    async def sync(self, group_id: str) -> None:
        """Make the rows of a group say what is declared now."""
        if not self._declared or self._synced.get(group_id):
            return
        for declared in self._declared:
            if declared.is_for(group_id):
                await self._sync(group_id, declared.spec)
        self._synced.put(group_id, True, utc_now().timestamp() + _KNOWN_SECONDS)

    async def _sync(self, group_id: str, spec: ToolSourceSpec) -> None:
        now = utc_now()
        async with self._database.write() as connection:
            sources = ToolSourceRepository(connection)
            present = await sources.get(group_id, ResourceKey(name=spec.name))
            if present is None:
                new = ToolSource(
                    new_id(), group_id, 1, spec, tools=(), created_at=now, updated_at=now, from_operator=True
                )
                try:
                    await sources.insert(new, "")
                except AlreadyExists:
                    # Another process was faster.
                    logger.debug("operator_source_exists", group_id=group_id, source=spec.name)
            elif not present.from_operator:
                logger.warning("operator_source_hidden", group_id=group_id, source=spec.name)
            elif present.spec != spec:
                await _change(sources, present, spec)

    async def prune(self) -> None:
        """Take away what is not declared any more, and bring the rest up to date."""
        after = ""
        while True:
            async with self._database.write() as connection:
                sources = ToolSourceRepository(connection)
                found = await sources.operators(after, _READ_AT_ONCE)
                for source in found:
                    wanted = self._wanted(source)
                    if wanted is None:
                        await sources.delete(source, utc_now())
                        logger.info("operator_source_removed", group_id=source.group_id, source=source.spec.name)
                    elif wanted != source.spec:
                        await _change(sources, source, wanted)
            if len(found) < _READ_AT_ONCE:
                return
            after = found[-1].id

    def _wanted(self, source: ToolSource) -> ToolSourceSpec | None:
        return next(
            (
                declared.spec
                for declared in self._declared
                if declared.spec.name == source.spec.name and declared.is_for(source.group_id)
            ),
            None,
        )


async def _change(sources: ToolSourceRepository, source: ToolSource, spec: ToolSourceSpec) -> None:
    locked = await sources.lock(source.group_id, source.id)
    if locked is not None:
        await sources.save(replace(locked, spec=spec, revision=locked.revision + 1, updated_at=utc_now()))
