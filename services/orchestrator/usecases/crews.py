"""Use cases of CrewService."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.db.row_quota import check_row_quota
from services.common.errors import Aborted, FieldViolation, NotFound
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Page, Pager
from services.common.resource_key import ResourceKey
from services.orchestrator import tables
from services.orchestrator.domain.crew import Crew, CrewSpec
from services.orchestrator.domain.document import to_document
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.tool_sources import ToolSourceRepository
from services.orchestrator.tool_identity import source_of
from services.orchestrator.usecases.crew_faults import in_document_order
from services.orchestrator.usecases.crew_revisions import no_revision
from services.orchestrator.usecases.crew_validation import CrewReport, CrewValidation
from services.orchestrator.usecases.ports import Memories
from services.orchestrator.usecases.stale_crews import changed_tools

_CREWS = Pager("crews")


@dataclass(frozen=True, slots=True)
class ChangedCrew:
    """A stored crew, and what is to be said of storing it."""

    crew: Crew
    warnings: tuple[FieldViolation, ...] = ()
    carried_memories: int = 0


class Crews:
    """Keeps the crews of groups."""

    def __init__(self, database: Database, validation: CrewValidation, memories: Memories) -> None:
        self._database = database
        self._validation = validation
        self._memories = memories

    async def create(
        self, principal: Principal, spec: CrewSpec, broken_rules: Sequence[FieldViolation], request: RequestKey | None
    ) -> ChangedCrew:
        """Store a crew as revision 1; a repeated `request` returns the crew of the first one.

        `broken_rules` are those of its message.

        Raises:
            InvalidArgument: it could not run; one violation for each fault.
            AlreadyExists: the group has a crew of that name, or the request_id was used with another body.
            ResourceExhausted: QUOTA_EXCEEDED, the group has as many crews as it may.
        """
        if request is not None:
            async with self._database.read() as connection:
                first_id = await RequestRepository(connection, tables.requests).find(request)
                if first_id is not None:
                    return ChangedCrew(await _first(connection, principal, first_id))
        report = await self._validation.report(principal.group_id, spec, broken_rules)
        report.refuse_faults()
        now = utc_now()
        memory_id = await self._memory_id(spec)
        crew = Crew(
            new_id(),
            principal.group_id,
            1,
            spec,
            created_at=now,
            updated_at=now,
            memory_id=memory_id,
            tool_pins=report.tool_pins,
        )
        async with self._database.write() as connection:
            if request is not None:
                first_id = await RequestRepository(connection, tables.requests).claim(request, crew.id)
                if first_id != crew.id:
                    return ChangedCrew(await _first(connection, principal, first_id))
            await check_row_quota(
                connection,
                "max_crews",
                principal.limits.max_crews,
                tables.crews.c.group_id,
                principal.group_id,
                tables.crews.c.deleted_at.is_(None),
                what="crews",
            )
            await CrewRepository(connection).insert(crew, principal.subject)
        return ChangedCrew(crew, tuple(report.warnings))

    async def get(self, principal: Principal, key: ResourceKey, revision: int = 0) -> Crew:
        """Return a crew; revision 0 is the newest.

        Raises:
            NotFound: the group does not have this crew, or the crew does not have this revision.
        """
        async with self._database.read() as connection:
            crews = CrewRepository(connection)
            crew = await crews.get(principal.group_id, key, revision)
            newest = await crews.get(principal.group_id, key) if crew is None and revision else None
        if newest is not None:
            raise no_revision("revision", str(key), revision, newest.revision)
        if crew is None:
            raise NotFound.of("crew", str(key))
        (crew,) = await self._with_changed_tools(principal.group_id, [crew])
        return await self._with_memory_id(crew)

    async def page(self, principal: Principal, size: int, token: str) -> Page[Crew]:
        """Return a page of the group's crews, newest first. Raises InvalidArgument: INVALID_PAGE_TOKEN."""
        async with self._database.read() as connection:
            crews = CrewRepository(connection)
            page = await _CREWS.page(
                size,
                token,
                {"group": principal.group_id},
                lambda after, limit: crews.page(principal.group_id, after[0] if after else None, limit),
                lambda crew: [crew.id],
                lambda crew: len(to_json(to_document(crew.spec))),
            )
        crews_found = await self._with_changed_tools(principal.group_id, page.items)
        return Page([await self._with_memory_id(crew) for crew in crews_found], page.next_page_token)

    async def update(
        self,
        principal: Principal,
        key: ResourceKey,
        change: Callable[[CrewSpec], tuple[CrewSpec, list[FieldViolation]]],
        expected_revision: int,
        *,
        carry_over_memories: bool,
    ) -> ChangedCrew:
        """Store the next revision of a crew; the present one is kept when the document is the same.

        `change` returns the new document for the present one, and the rules of its message that it breaks.

        Raises:
            InvalidArgument: it could not run; one violation for each fault.
            NotFound: the group does not have this crew.
            Aborted: the crew is not at `expected_revision` (0: any).
            AlreadyExists: the group has another crew of that name.
        """
        while True:
            present = await self.get(principal, key)
            spec, broken_rules = change(present.spec)
            report = await self._validation.report(principal.group_id, spec, broken_rules)
            report.refuse_faults()
            # Storing a crew again accepts what its tools have become.
            if present.spec == spec and (present.tool_pins or {}) == report.tool_pins:
                carried = await self._carry_from_before(principal, present) if carry_over_memories else 0
                return ChangedCrew(present, tuple(report.warnings), carried)
            if expected_revision not in {0, present.revision}:
                raise Aborted.revision("crew", str(key), expected_revision, present.revision)
            memory_id = await self._memory_id(spec)
            carried = await self._carry(present, memory_id, spec) if carry_over_memories else 0
            async with self._database.write() as connection:
                crews = CrewRepository(connection)
                locked = await crews.lock(principal.group_id, ResourceKey(present.id))
                if locked is None:
                    raise NotFound.by_key("crew", key)
                if locked.revision != present.revision:
                    # Another caller changed it since it was read: `change` has to see the new document.
                    continue
                crew = replace(
                    locked,
                    revision=locked.revision + 1,
                    spec=spec,
                    updated_at=utc_now(),
                    memory_id=memory_id,
                    tool_pins=report.tool_pins,
                )
                await crews.add_revision(crew, principal.subject)
            left = [] if carry_over_memories or not _moves(present, memory_id) else [_left_behind(present)]
            return ChangedCrew(crew, tuple(in_document_order([*report.warnings, *left])), carried)

    async def delete(self, principal: Principal, key: ResourceKey) -> None:
        """Take a crew out of listings. Deleting it again changes nothing.

        Raises:
            NotFound: the group never had this crew.
        """
        async with self._database.write() as connection:
            crews = CrewRepository(connection)
            crew = await crews.lock(principal.group_id, key)
            if crew is not None:
                await crews.delete(crew.id, utc_now())
            elif not await crews.was_deleted(principal.group_id, key):
                raise NotFound.by_key("crew", key)

    async def validate(
        self, principal: Principal, spec: CrewSpec, broken_rules: Sequence[FieldViolation]
    ) -> CrewReport:
        """Return what keeps a crew from being stored and run, and what would run but deserves a look."""
        return await self._validation.report(principal.group_id, spec, broken_rules)

    async def _carry(self, before: Crew, memory_id: str, spec: CrewSpec) -> int:
        """Copy the memories of a crew to those it has after a change, if these are others; return how many."""
        if not before.memory_id or not _moves(before, memory_id):
            return 0
        return await self._memories.copy(before.memory_id, before.spec, memory_id, spec)

    async def _carry_from_before(self, principal: Principal, present: Crew) -> int:
        """Copy what the latest change of a crew has left behind: only then was it said."""
        if present.revision == 1:
            return 0
        before = await self.get(principal, ResourceKey(present.id), present.revision - 1)
        return await self._carry(before, present.memory_id or "", present.spec)

    async def _memory_id(self, spec: CrewSpec) -> str:
        return await self._memories.memory_id(spec) if spec.memory.enabled else ""

    async def _with_changed_tools(self, group_id: str, crews: Sequence[Crew]) -> list[Crew]:
        names = {source_of(name) for crew in crews for name in crew.tool_pins or ()}
        if not names:
            return list(crews)
        async with self._database.read() as connection:
            sources = await ToolSourceRepository(connection).named(group_id, names)
        return [replace(crew, changed_tools=tuple(changed_tools(crew.tool_pins or {}, sources))) for crew in crews]

    async def _with_memory_id(self, crew: Crew) -> Crew:
        # Revisions from before it was stored have none.
        return crew if crew.memory_id is not None else replace(crew, memory_id=await self._memory_id(crew.spec))


async def _first(connection: AsyncConnection, principal: Principal, crew_id: str) -> Crew:
    crew = await CrewRepository(connection).get_first_revision(principal.group_id, crew_id)
    if crew is None:
        raise NotFound.of("crew", crew_id)
    return crew


def _moves(before: Crew, memory_id: str) -> bool:
    return bool(before.memory_id and memory_id) and before.memory_id != memory_id


def _left_behind(before: Crew) -> FieldViolation:
    return FieldViolation(
        "spec.memory",
        f"the crew has another memory after this change; what it remembered stays under {before.memory_id}. Repeat the "
        "update with carry_over_memories to copy it. A memory with a name (spec.memory.name) stays with its crew",
    )
