"""Which crews other systems can call as agents."""

from collections.abc import Iterator

from services.common.db.database import Database
from services.common.errors import FieldViolation
from services.common.identity.principal import Principal
from services.common.paging import Page, Pager
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.a2a import PROVIDED_PREFIX, Publication
from services.orchestrator.domain.crew import Crew, CrewSpec
from services.orchestrator.placeholders import required_inputs
from services.orchestrator.repositories.crews import read_crew
from services.orchestrator.repositories.publications import (
    PublicationRepository,
    read_first_publications,
    read_public_publications,
)

_PUBLICATIONS = Pager("publications")


class Publications:
    """Shows the publications of groups."""

    def __init__(self, database: Database, *, all_public: bool, well_known_group: str) -> None:
        """`all_public` shows every card to anybody; an agent of `well_known_group` stands for the installation."""
        self._database = database
        self._all_public = all_public
        self._well_known_group = well_known_group

    async def page(self, principal: Principal, size: int, token: str) -> Page[Publication]:
        """Return a page of the group's publications, newest crew first. Raises InvalidArgument: INVALID_PAGE_TOKEN."""
        async with self._database.read() as connection:
            publications = PublicationRepository(connection)
            return await _PUBLICATIONS.page(
                size,
                token,
                {"group": principal.group_id},
                lambda after, limit: publications.page(principal.group_id, after[0] if after else None, limit),
                lambda publication: [publication.crew_id],
            )

    async def public(self, tenant: str) -> tuple[Publication, Crew] | None:
        """Return the publication of a tenant, if anybody may read its card."""
        return await self._with_crew(
            await read_public_publications(self._database, tenant, public_only=not self._all_public)
        )

    async def well_known(self) -> tuple[Publication, Crew] | None:
        """Return the publication that stands for the installation: its group's default, or the only one of that.

        Other groups have no say in it. There is none without such a group, or where its card is not public.
        """
        if not self._well_known_group:
            return None
        own = await read_first_publications(self._database, self._well_known_group)
        stands = own and (own[0].is_default or len(own) == 1) and (self._all_public or own[0].public_card)
        return await self._with_crew(own[:1] if stands else [])

    async def _with_crew(self, found: list[Publication]) -> tuple[Publication, Crew] | None:
        if len(found) != 1:
            return None
        crew = await read_crew(self._database, found[0].group_id, ResourceKey(found[0].crew_id))
        return None if crew is None or not crew.spec.a2a.published else (found[0], crew)


def message_inputs(spec: CrewSpec) -> list[str]:
    """Return the inputs of a crew that messages have to give, in the order of its texts."""
    return [name for name in required_inputs(spec) if not name.startswith(PROVIDED_PREFIX)]


def text_input(spec: CrewSpec) -> str:
    """Return the input of a published crew that takes the text of a message."""
    return spec.a2a.text_input or message_inputs(spec)[0]


def publication_faults(spec: CrewSpec) -> Iterator[FieldViolation]:
    """Yield what keeps a crew from being published as it says."""
    a2a = spec.a2a
    if not a2a.published:
        return
    inputs = message_inputs(spec)
    listed = ", ".join(inputs)
    if not a2a.text_input and len(inputs) != 1:
        yield FieldViolation(
            "spec.a2a.text_input",
            f"is missing: name the input that takes the text of a message, one of {listed}"
            if inputs
            else "is missing, and no text of the crew refers to an input; refer to one, as {topic}, and name it",
        )
    for field, name in (("text_input", a2a.text_input), ("file_input", a2a.file_input)):
        if name and name not in inputs:
            yield FieldViolation(
                f"spec.a2a.{field}",
                f"no text of the crew refers to {{{name}}}; name one of its inputs: {listed or 'none'}",
            )
    if a2a.file_input and a2a.file_input == (a2a.text_input or (inputs[0] if len(inputs) == 1 else "")):
        yield FieldViolation("spec.a2a.file_input", "is the input of the text too; name another one")
    if a2a.all_results and any(task.name == "result" for task in spec.tasks[:-1]):
        yield FieldViolation(
            "spec.a2a.all_results", 'needs another name for the task "result": the last task\'s artifact is called so'
        )
    seen: set[str] = set()
    for index, skill in enumerate(a2a.skills):
        if skill.id in seen:
            yield FieldViolation(f"spec.a2a.skills[{index}].id", f'"{skill.id}" is the id of an earlier skill')
        seen.add(skill.id)
    for field, modes in (("input_modes", a2a.input_modes), ("output_modes", a2a.output_modes)):
        for index, mode in enumerate(modes):
            if "/" not in mode.strip("/"):
                yield FieldViolation(f"spec.a2a.{field}[{index}]", "is not a media type such as text/plain")
