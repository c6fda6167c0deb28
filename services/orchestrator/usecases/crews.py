"""Use cases of CrewService."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.errors import Aborted, FieldViolation, NotFound
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Page, Pager
from services.common.resource_key import ResourceKey
from services.orchestrator import tables
from services.orchestrator.domain.crew import Crew, CrewSpec
from services.orchestrator.domain.document import to_document
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.usecases.crew_faults import crew_warnings, in_document_order
from services.orchestrator.usecases.crew_validation import CrewValidation, crew_invalid
from services.orchestrator.usecases.ports import Memories

_CREWS = Pager("crews")


class Crews:
    """Keeps the crews of groups."""

    def __init__(self, database: Database, validation: CrewValidation, memories: Memories) -> None:
        self._database = database
        self._validation = validation
        self._memories = memories

    async def create(self, principal: Principal, spec: CrewSpec, request: RequestKey | None) -> Crew:
        """Store a crew as revision 1; a repeated `request` returns the crew of the first one.

        Raises:
            InvalidArgument: it could not run; one violation for each fault.
            AlreadyExists: the group has a crew of that name, or the request_id was used with another body.
        """
        if request is not None:
            async with self._database.read() as connection:
                first_id = await RequestRepository(connection, tables.requests).find(request)
                if first_id is not None:
                    return await _first(connection, principal, first_id)
        await self._refuse_faults(spec)
        now = utc_now()
        memory_id = await self._memory_id(spec)
        crew = Crew(new_id(), principal.group_id, 1, spec, created_at=now, updated_at=now, memory_id=memory_id)
        async with self._database.write() as connection:
            if request is not None:
                first_id = await RequestRepository(connection, tables.requests).claim(request, crew.id)
                if first_id != crew.id:
                    return await _first(connection, principal, first_id)
            await CrewRepository(connection).insert(crew, principal.subject)
        return crew

    async def get(self, principal: Principal, key: ResourceKey, revision: int = 0) -> Crew:
        """Return a crew; revision 0 is the newest.

        Raises:
            NotFound: the group does not have this crew, or the crew does not have this revision.
        """
        async with self._database.read() as connection:
            crew = await CrewRepository(connection).get(principal.group_id, key, revision)
        if crew is None:
            raise NotFound.of("crew", f"{key} at revision {revision}" if revision else str(key))
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
        return Page([await self._with_memory_id(crew) for crew in page.items], page.next_page_token)

    async def update(
        self, principal: Principal, key: ResourceKey, change: Callable[[CrewSpec], CrewSpec], expected_revision: int
    ) -> Crew:
        """Store the next revision of a crew; the present one is kept when the document is the same.

        `change` returns the new document for the present one.

        Raises:
            InvalidArgument: it could not run; one violation for each fault.
            NotFound: the group does not have this crew.
            Aborted: the crew is not at `expected_revision` (0: any).
            AlreadyExists: the group has another crew of that name.
        """
        while True:
            present = await self.get(principal, key)
            spec = change(present.spec)
            await self._refuse_faults(spec)
            if present.spec == spec:
                return present
            if expected_revision not in {0, present.revision}:
                raise Aborted.revision("crew", str(key), expected_revision, present.revision)
            memory_id = await self._memory_id(spec)
            async with self._database.write() as connection:
                crews = CrewRepository(connection)
                locked = await crews.lock(principal.group_id, ResourceKey(present.id))
                if locked is None:
                    raise NotFound.by_key("crew", key)
                if locked.revision != present.revision:
                    # Another caller changed it since it was read: `change` has to see the new document.
                    continue
                crew = replace(
                    locked, revision=locked.revision + 1, spec=spec, updated_at=utc_now(), memory_id=memory_id
                )
                await crews.add_revision(crew, principal.subject)
            return crew

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
        self, spec: CrewSpec, broken_rules: Sequence[FieldViolation]
    ) -> tuple[list[FieldViolation], list[FieldViolation]]:
        """Return what keeps a crew from being stored and run, and what would run but deserves a look.

        `broken_rules` are those of its message; a field that breaks one is not found fault with twice.
        """
        broken = {violation.field for violation in broken_rules}
        faults = [fault for fault in await self._validation.faults(spec) if fault.field not in broken]
        warnings = [*crew_warnings(spec), *await self._validation.warnings(spec)]
        return in_document_order([*broken_rules, *faults]), in_document_order(warnings)

    async def _refuse_faults(self, spec: CrewSpec) -> None:
        faults = await self._validation.faults(spec)
        if faults:
            raise crew_invalid(faults)

    async def _memory_id(self, spec: CrewSpec) -> str:
        return await self._memories.memory_id(spec) if spec.memory.enabled else ""

    async def _with_memory_id(self, crew: Crew) -> Crew:
        # Revisions from before it was stored have none.
        return crew if crew.memory_id is not None else replace(crew, memory_id=await self._memory_id(crew.spec))


async def _first(connection: AsyncConnection, principal: Principal, crew_id: str) -> Crew:
    crew = await CrewRepository(connection).get_first_revision(principal.group_id, crew_id)
    if crew is None:
        raise NotFound.of("crew", crew_id)
    return crew
