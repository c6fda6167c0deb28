"""Use cases of CrewService."""

from collections.abc import Sequence
from dataclasses import replace

from services.common.clock import utc_now
from services.common.errors import Aborted, AlreadyExists, NotFound
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import decode_page_token, encode_page_token, page_size
from services.orchestrator.domain.crew import Crew, CrewSpec
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.fault import Fault
from services.orchestrator.repositories.protocols import KnownRequest, RequestKey, Store, UnitOfWork
from services.orchestrator.usecases.crew_faults import crew_warnings
from services.orchestrator.usecases.crew_validation import CrewValidation, crew_invalid
from services.orchestrator.usecases.pages import read_fitting

_LISTING = "crews"


class CrewUseCases:
    """Keeps the crews of groups."""

    def __init__(self, store: Store, validation: CrewValidation) -> None:
        self._store = store
        self._validation = validation

    async def create(self, principal: Principal, spec: CrewSpec, request_id: str, request_hash: str) -> Crew:
        """Store a crew as revision 1.

        Raises:
            InvalidArgument: it could not run; one violation for each fault.
            AlreadyExists: the group has a crew of that name, or the request_id was used with another body.
        """
        key = RequestKey(principal.group_id, principal.subject, "CreateCrew", request_id)
        if request_id:
            async with self._store.read() as work:
                earlier = await work.requests.find(key)
                if earlier is not None:
                    return await _repeated(work, key, earlier, request_hash)
        await self._refuse_faults(spec)
        now = utc_now()
        crew = Crew(new_id(), principal.group_id, 1, spec, created_at=now, updated_at=now)
        async with self._store.write() as work:
            if request_id:
                earlier = await work.requests.claim(key, KnownRequest(request_hash, crew.id), now)
                if earlier is not None:
                    return await _repeated(work, key, earlier, request_hash)
            if not await work.crews.insert(crew, principal.subject):
                raise _name_taken(spec.name)
        return crew

    async def get(self, principal: Principal, crew_id: str, name: str, revision: int) -> Crew:
        """Return a crew by id or, when that is empty, by name; revision 0 is the newest.

        Raises:
            NotFound: the group has no such crew, or it no such revision.
        """
        async with self._store.read() as work:
            if crew_id:
                crew = await work.crews.get(principal.group_id, crew_id, revision)
            else:
                crew = await work.crews.get_by_name(principal.group_id, name, revision)
        if crew is None:
            raise NotFound.of("crew", (crew_id or name) + (f" at revision {revision}" if revision else ""))
        return crew

    async def page(self, principal: Principal, requested_size: int, token: str) -> tuple[Sequence[Crew], str]:
        """Return a page of the group's crews, newest first, and the token of the next page."""
        filters = {"group": principal.group_id}
        key = decode_page_token(token, _LISTING, filters)
        before_id = key[0] if key and isinstance(key[0], str) else None
        size = page_size(requested_size)
        async with self._store.read() as work:
            page, more = await read_fitting(
                lambda last, limit: work.crews.page(principal.group_id, last.id if last else before_id, limit),
                size,
                lambda crew: to_document(crew.spec),
            )
        return page, encode_page_token(_LISTING, filters, [page[-1].id]) if more else ""

    async def update(self, principal: Principal, crew_id: str, spec: CrewSpec, expected_revision: int) -> Crew:
        """Store the next revision of a crew; the present one is kept when the document is the same.

        Raises:
            InvalidArgument: it could not run; one violation for each fault.
            NotFound: the group has no such crew.
            Aborted: the crew is not at `expected_revision` (0: any).
            AlreadyExists: the group has another crew of that name.
        """
        await self._refuse_faults(spec)
        async with self._store.write() as work:
            crew = await work.crews.lock(principal.group_id, crew_id)
            if crew is None:
                raise NotFound.of("crew", crew_id)
            if crew.spec == spec:
                return crew
            if expected_revision not in {0, crew.revision}:
                raise Aborted.revision("crew", crew_id, expected_revision, crew.revision)
            crew = replace(crew, revision=crew.revision + 1, spec=spec, updated_at=utc_now())
            if not await work.crews.add_revision(crew, principal.subject):
                raise _name_taken(spec.name)
        return crew

    async def delete(self, principal: Principal, crew_id: str) -> None:
        """Take a crew out of listings; one that already is stays so.

        Raises:
            NotFound: the group never had such a crew.
        """
        async with self._store.write() as work:
            if await work.crews.lock(principal.group_id, crew_id) is not None:
                await work.crews.delete(crew_id, utc_now())
            elif await work.crews.get(principal.group_id, crew_id, deleted=True) is None:
                raise NotFound.of("crew", crew_id)

    async def validate(self, spec: CrewSpec) -> tuple[list[Fault], list[Fault]]:
        """Return what keeps a crew from running, and what would run but deserves a look."""
        return await self._validation.faults(spec), crew_warnings(spec)

    async def _refuse_faults(self, spec: CrewSpec) -> None:
        faults = await self._validation.faults(spec)
        if faults:
            raise crew_invalid(faults)


async def _repeated(work: UnitOfWork, key: RequestKey, earlier: KnownRequest, request_hash: str) -> Crew:
    if earlier.request_hash != request_hash:
        raise AlreadyExists.request_id(key.request_id)
    crew = await work.crews.get(key.group_id, earlier.resource_id, 1, deleted=True)
    if crew is None:
        raise NotFound.of("crew", earlier.resource_id)
    return crew


def _name_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        f'the group has a crew named "{name}"; update that one or choose another name',
        metadata={"resource": "crew", "name": name},
    )
