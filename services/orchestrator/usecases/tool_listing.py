"""Asks sources for their tools and keeps what they list."""

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import replace

import structlog

from services.common.background import BackgroundTasks
from services.common.cache import AsyncCache
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import CoxswainError, NotFound
from services.common.grpc.call import outlast_caller
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.tool_source import (
    AuthKind,
    HttpApi,
    OnToolChange,
    OpenApiDocument,
    ToolSource,
    ToolSourceSpec,
)
from services.orchestrator.repositories.tool_sources import ToolSourceRepository
from services.orchestrator.usecases.operator_sources import OperatorSources
from services.orchestrator.usecases.ports import ToolGateway
from services.orchestrator.usecases.tool_lists import (
    CleanList,
    clean_list,
    shown_text,
    tool_changes,
    with_calls,
    with_replaced,
)

logger = structlog.get_logger(__name__)

_MOST_AT_ONCE = 10_000
# A source that was never listed is asked again by whoever needs it, but not by everybody.
_RETRY_SECONDS = 15.0
_ERROR_CHARACTERS = 1000
_BESIDE_AT_ONCE = 4
"""Sources that are listed beside calls at the same time."""
# What these list may depend on who asks.
_OF_CALLERS = frozenset({AuthKind.CALLER, AuthKind.DATABRICKS})


class ToolListing:
    """Keeps the lists of sources; of those who need one anew at the same time one asks for it."""

    def __init__(
        self, database: Database, gateway: ToolGateway, operators: OperatorSources, *, max_age_seconds: float
    ) -> None:
        """Lists older than `max_age_seconds` are asked for anew when somebody needs them."""
        self._database = database
        self._gateway = gateway
        self._operators = operators
        self._max_age_seconds = max_age_seconds
        self._started_at = utc_now()
        self._lists: AsyncCache[tuple[str, int], ToolSource] = AsyncCache(_MOST_AT_ONCE, 0.0)
        """By id and revision: who has changed a source gets its list, and not the one that was being asked for."""
        self._beside = asyncio.Semaphore(_BESIDE_AT_ONCE)
        self._waiting: set[str] = set()
        """Ids of the sources that are listed beside calls, or wait for it."""
        self._background = BackgroundTasks()

    async def refresh(self, source: ToolSource) -> ToolSource:
        """Ask a source for its tools, and return it with its new list.

        Raises:
            CoxswainError: it cannot be listed; why is kept with the source.
        """
        return await self._lists.get((source.id, source.revision), lambda: self._list(source))

    async def needed(self, group_id: str, names: Collection[str]) -> dict[str, ToolSource]:
        """Return the sources of the caller's group with these names, by name.

        One that was never listed is listed now; one whose list is old is listed beside the call.
        """
        if not names:
            return {}
        await self._operators.sync(group_id)
        async with self._database.read() as connection:
            repository = ToolSourceRepository(connection)
            # A crew may name more than a statement can hold.
            sources = await repository.named(group_id, frozenset(names) & set(await repository.names(group_id)))
        unlisted = [source for source in sources.values() if self._is_wanted_now(source)]
        listed = await asyncio.gather(*map(self._quietly, unlisted))
        for source in listed:
            sources[source.spec.name] = source
        for source in sources.values():
            self._refresh_if_old(source)
        return sources

    def refresh_for_reader(self, source: ToolSource) -> None:
        """Ask a source for its tools beside a call that reads its list, if that is old.

        One that is asked with the caller's own rights is left to those who use it: a reader may be shown fewer tools,
        and the list is the group's.
        """
        if source.spec.auth.kind not in _OF_CALLERS:
            self._refresh_if_old(source)

    def _refresh_if_old(self, source: ToolSource) -> None:
        """Ask a source for its tools beside the call if its list is old.

        One from before this process started counts as old: settings may say now that the source may not be called.
        """
        is_old = self._age(source) > self._max_age_seconds or (source.checked_at or utc_now()) < self._started_at
        if source.list_revision and not source.spec.disabled and is_old and source.id not in self._waiting:
            self._waiting.add(source.id)
            self._background.start(self._refresh_beside(source))

    async def close(self) -> None:
        """End what goes on beside calls."""
        await self._background.stop()
        await self._lists.close()

    def _is_wanted_now(self, source: ToolSource) -> bool:
        return not source.list_revision and not source.spec.disabled and self._age(source) > _RETRY_SECONDS

    def _age(self, source: ToolSource) -> float:
        return float("inf") if source.checked_at is None else (utc_now() - source.checked_at).total_seconds()

    async def _refresh_beside(self, source: ToolSource) -> None:
        try:
            async with self._beside:
                await self._quietly(source)
        finally:
            self._waiting.discard(source.id)

    async def _quietly(self, source: ToolSource) -> ToolSource:
        with contextlib.suppress(CoxswainError):
            return await self.refresh(source)
        return source

    async def _list(self, source: ToolSource) -> ToolSource:
        # It serves all who wait for it.
        outlast_caller()
        try:
            found = await asyncio.to_thread(clean_list, await self._gateway.list_tools(source.id))
        except CoxswainError as error:
            await self._store_failure(source, error)
            raise
        return await self._store(source, found)

    async def _store(self, source: ToolSource, found: CleanList) -> ToolSource:
        now = utc_now()
        async with self._database.write() as connection:
            sources = ToolSourceRepository(connection)
            present = await sources.lock(source.group_id, source.id)
            if present is None:
                raise NotFound.of("tool source", source.spec.name)
            if present.revision != source.revision:
                # It was changed meanwhile: whoever did so lists it.
                return present
            same = present.list_revision > 0 and _hashes(present) == {tool.name: tool.hash for tool in found.tools}
            listed = replace(
                present,
                tools=found.tools,
                tool_count=len(found.tools),
                list_warnings=found.warnings,
                list_revision=present.list_revision if same else present.list_revision + 1,
                list_error="",
                listed_at=now,
                checked_at=now,
            )
            if not present.list_revision or _accepts_all(present.spec):
                listed = replace(listed, accepted=found.accepted)
            else:
                accepted = with_calls(present.accepted, found.accepted, present.changes)
                listed = replace(listed, accepted=with_replaced(accepted, present.tools, found.tools))
            changes = tool_changes(listed.accepted, listed.tools, now, present.changes)
            listed = replace(listed, changes=changes)
            await sources.save(listed)
            if not same:
                await sources.add_list(listed, now)
        if set(changes) - set(present.changes):
            logger.info("tools_changed", group_id=source.group_id, source=source.spec.name, changes=len(changes))
        return listed

    async def _store_failure(self, source: ToolSource, error: CoxswainError) -> None:
        async with self._database.write() as connection:
            sources = ToolSourceRepository(connection)
            present = await sources.lock(source.group_id, source.id)
            if present is not None and present.revision == source.revision:
                text = shown_text(error.message[:_ERROR_CHARACTERS])
                await sources.save(replace(present, list_error=text, checked_at=utc_now()))
        logger.info("tools_not_listed", group_id=source.group_id, source=source.spec.name, reason=error.reason)


def _accepts_all(spec: ToolSourceSpec) -> bool:
    """Whether nobody has to look at what has changed: it is wanted so, or an admin of the group has written it."""
    written = isinstance(spec.endpoint, HttpApi) or (
        isinstance(spec.endpoint, OpenApiDocument) and not spec.endpoint.url
    )
    return written or spec.on_change is OnToolChange.ACCEPT


def _hashes(source: ToolSource) -> dict[str, str]:
    return {tool.name: tool.hash for tool in source.tools}


async def read_source(database: Database, group_id: str, key: ResourceKey) -> ToolSource:
    """Return a source of a group with its tools. Raises NotFound."""
    async with database.read() as connection:
        source = await ToolSourceRepository(connection).get(group_id, key)
    if source is None:
        raise NotFound.by_key("tool source", key)
    return source
