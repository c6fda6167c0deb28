"""Use cases of ToolSourceService."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.egress import AddressPolicy
from services.common.errors import (
    Aborted,
    CoxswainError,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
)
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Page, Pager
from services.common.quotas import quota_exceeded
from services.common.resource_key import ResourceKey
from services.orchestrator import tables
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.tool_source import (
    OnToolChange,
    ToolChange,
    ToolSource,
    ToolSourceSpec,
)
from services.orchestrator.repositories.tool_sources import CrewToolRepository, ToolSourceRepository
from services.orchestrator.usecases.operator_sources import OperatorSources
from services.orchestrator.usecases.stale_crews import changed_tools
from services.orchestrator.usecases.tool_listing import ToolListing
from services.orchestrator.usecases.tool_lists import accepted_tools, tool_changes
from services.orchestrator.usecases.tool_source_faults import source_faults
from services.orchestrator.usecases.tool_source_state import idle_patterns, state_problem

_SOURCES = Pager("tool_sources")
MAX_SOURCES = 64
_MOST_CREWS_NAMED = 100


@dataclass(frozen=True, slots=True)
class RefreshedSource:
    """A source with its new list, what differs from the one before, and the crews that were stored with other tools."""

    source: ToolSource
    changes: tuple[ToolChange, ...]
    stale_crews: tuple[str, ...]


class ToolSources:
    """Keeps the sources of groups."""

    def __init__(
        self,
        database: Database,
        listing: ToolListing,
        operators: OperatorSources,
        addresses: AddressPolicy,
    ) -> None:
        self._database = database
        self._listing = listing
        self._operators = operators
        self._addresses = addresses

    async def create(
        self,
        principal: Principal,
        spec: ToolSourceSpec,
        broken_rules: Sequence[FieldViolation],
        request: RequestKey | None,
    ) -> ToolSource:
        """Store a source and list its tools; a repeated `request` returns the first one's.

        `broken_rules` are those of its message. One that cannot be listed is stored as well, with its `list_error`.

        Raises:
            InvalidArgument: one violation for each fault.
            AlreadyExists: the group has a source of that name, or the request_id was used with another body.
            ResourceExhausted: the group has as many sources as it may have.
        """
        if request is not None:
            async with self._database.read() as connection:
                first_id = await RequestRepository(connection, tables.requests).find(request)
                if first_id is not None:
                    return self._shown(await _first(connection, principal, first_id))
        await self._operators.sync(principal.group_id)
        await self._refuse_faults(spec, broken_rules)
        now = utc_now()
        source = ToolSource(new_id(), principal.group_id, 1, spec, tools=(), created_at=now, updated_at=now)
        async with self._database.write() as connection:
            sources = ToolSourceRepository(connection)
            await sources.lock_group(principal.group_id)
            if request is not None:
                first_id = await RequestRepository(connection, tables.requests).claim(request, source.id)
                if first_id != source.id:
                    return self._shown(await _first(connection, principal, first_id))
            await sources.insert(source, principal.subject)
            if await sources.count(principal.group_id) > MAX_SOURCES:
                raise quota_exceeded(
                    "tool_sources",
                    MAX_SOURCES,
                    MAX_SOURCES,
                    f"the group has {MAX_SOURCES} sources and may not have more; delete one that nobody uses",
                )
        return self._shown(await self._listed(principal, source))

    async def get(self, principal: Principal, key: ResourceKey) -> tuple[ToolSource, list[str]]:
        """Return a source, and the crews that were stored with other tools than it lists now. Raises NotFound."""
        source = await self.stored(principal, key)
        self._listing.refresh_for_reader(source)
        return self._shown(source), await self._stale_crews(source)

    async def page(self, principal: Principal, size: int, token: str) -> Page[ToolSource]:
        """Return a page of the group's sources, by name. Raises InvalidArgument: INVALID_PAGE_TOKEN."""
        await self._operators.sync(principal.group_id)
        async with self._database.read() as connection:
            sources = ToolSourceRepository(connection)
            page = await _SOURCES.page(
                size,
                token,
                {"group": principal.group_id},
                lambda after, limit: sources.page(principal.group_id, after[0] if after else None, limit),
                lambda source: [source.spec.name],
                lambda source: len(to_json(to_document(source.spec))) + 256 * len(source.changes),
            )
        for source in page.items:
            self._listing.refresh_for_reader(source)
        return replace(page, items=list(map(self._shown, page.items)))

    async def update(
        self,
        principal: Principal,
        key: ResourceKey,
        change: Callable[[ToolSourceSpec], tuple[ToolSourceSpec, list[FieldViolation]]],
        expected_revision: int,
    ) -> ToolSource:
        """Change what a source shall be, and list its tools if they may be others now.

        `change` returns the new spec for the present one, and the rules of its message that it breaks.

        Raises:
            InvalidArgument: one violation for each fault.
            NotFound: the group does not have this source.
            Aborted: the source is not at `expected_revision` (0: any).
            FailedPrecondition: the operator declares it.
        """
        while True:
            present = await self.stored(principal, key)
            _refuse_operators(present)
            spec, broken_rules = change(present.spec)
            await self._refuse_faults(spec, broken_rules)
            if spec == present.spec:
                return self._shown(present)
            if expected_revision not in {0, present.revision}:
                raise Aborted.revision("tool source", str(key), expected_revision, present.revision)
            accepted = await asyncio.to_thread(accepted_tools, present.tools)
            async with self._database.write() as connection:
                sources = ToolSourceRepository(connection)
                locked = await sources.lock(principal.group_id, present.id)
                if locked is None:
                    raise NotFound.by_key("tool source", key)
                if (locked.revision, locked.list_revision) != (present.revision, present.list_revision):
                    # Another caller changed it since it was read: `change` has to see the new spec.
                    continue
                now = utc_now()
                changed = replace(locked, spec=spec, revision=locked.revision + 1, updated_at=now)
                if spec.on_change is OnToolChange.ACCEPT:
                    changed = replace(changed, accepted=accepted, changes=())
                await sources.save(changed, principal.subject)
            same = _lists_the_same(present.spec, spec)
            return self._shown(changed if same else await self._listed(principal, changed))

    async def delete(self, principal: Principal, key: ResourceKey, *, force: bool) -> None:
        """Take a source out of listings. Deleting it again changes nothing, for as long as request_ids are remembered.

        Raises:
            NotFound: the group does not have this source, and did not have it lately.
            FailedPrecondition: crews use it and `force` is not set, or the operator declares it.
        """
        async with self._database.write() as connection:
            sources = ToolSourceRepository(connection)
            found = await sources.get(principal.group_id, key)
            source = None if found is None else await sources.lock(principal.group_id, found.id)
            if source is None:
                if await sources.get_deleted(principal.group_id, key) is None:
                    raise NotFound.by_key("tool source", key)
                return
            _refuse_operators(source)
            used_by = [] if force else await self._users(connection, source)
            if used_by:
                named = ", ".join(f'"{name}"' for name in used_by[:5])
                more = " and others" if len(used_by) > 5 else ""
                raise FailedPrecondition(
                    f'the source "{source.spec.name}" is used by the crews {named}{more}; change them first, or set '
                    "force to delete it although they cannot be started then",
                    reason="RESOURCE_IN_USE",
                    metadata={"resource": "tool source", "id": source.id, "used_by": ",".join(used_by[:5])},
                )
            await sources.delete(source, utc_now())

    async def refresh(self, principal: Principal, key: ResourceKey) -> RefreshedSource:
        """List the tools of a source anew.

        Raises:
            NotFound: the group does not have this source.
            CoxswainError: it cannot be listed.
        """
        before = await self.stored(principal, key)
        source = await self._listing.refresh(before)
        accepted = await asyncio.to_thread(accepted_tools, before.tools)
        changes = tool_changes(accepted, source.tools, source.checked_at or utc_now())
        return RefreshedSource(self._shown(source), changes, tuple(await self._stale_crews(source)))

    async def stored(self, principal: Principal, key: ResourceKey) -> ToolSource:
        """Return a source as it is stored. Raises NotFound: the group does not have it."""
        await self._operators.sync(principal.group_id)
        async with self._database.read() as connection:
            source = await ToolSourceRepository(connection).get(principal.group_id, key)
        if source is None:
            raise NotFound.by_key("tool source", key)
        return source

    def _shown(self, source: ToolSource) -> ToolSource:
        """Return a source with what is to be said of it now; it is not to be stored."""
        return replace(
            source,
            problem=state_problem(source, self._addresses),
            list_warnings=(*source.list_warnings, *idle_patterns(source)),
        )

    async def _listed(self, principal: Principal, source: ToolSource) -> ToolSource:
        """Return a source after its tools were listed, or after why they could not be was stored."""
        if source.spec.disabled:
            return source
        try:
            return await self._listing.refresh(source)
        except CoxswainError:
            return await self.stored(principal, ResourceKey(source.id))

    async def _refuse_faults(self, spec: ToolSourceSpec, broken_rules: Sequence[FieldViolation]) -> None:
        found = await asyncio.to_thread(source_faults, spec, self._addresses, from_operator=False)
        broken = {fault.field for fault in broken_rules}
        # Parts of a field that breaks a rule are not found fault with twice.
        faults = [*broken_rules, *(fault for fault in found if not _lies_in(fault.field, broken))]
        if faults:
            raise InvalidArgument.fields(faults)

    async def _stale_crews(self, source: ToolSource) -> list[str]:
        async with self._database.read() as connection:
            users = await CrewToolRepository(connection).users(source.group_id, source.spec.name, None)
        stale = [name for name, pins in users if pins is not None and changed_tools(pins, {source.spec.name: source})]
        return stale[:_MOST_CREWS_NAMED]

    async def _users(self, connection: AsyncConnection, source: ToolSource) -> list[str]:
        users = await CrewToolRepository(connection).users(source.group_id, source.spec.name, _MOST_CREWS_NAMED)
        return [name for name, _pins in users]


def _refuse_operators(source: ToolSource) -> None:
    if source.from_operator:
        raise FailedPrecondition(
            f'the source "{source.spec.name}" is declared by the operator and cannot be changed here',
            reason="MANAGED_BY_OPERATOR",
            metadata={"resource": "tool source", "id": source.id},
        )


def _lists_the_same(before: ToolSourceSpec, after: ToolSourceSpec) -> bool:
    """Whether a change leaves alone what decides which tools there are."""
    parts = ("kind", "endpoint", "auth", "headers", "disabled")
    return all(getattr(before, part) == getattr(after, part) for part in parts)


def _lies_in(field: str, broken: Collection[str]) -> bool:
    return any(field == path or field.startswith((f"{path}.", f"{path}[")) for path in broken)


async def _first(connection: AsyncConnection, principal: Principal, source_id: str) -> ToolSource:
    sources, key = ToolSourceRepository(connection), ResourceKey(source_id)
    source = await sources.get(principal.group_id, key) or await sources.get_deleted(principal.group_id, key)
    if source is None:
        raise NotFound.of("tool source", source_id)
    return source
