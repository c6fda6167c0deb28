"""Crews that other systems can call as agents: what is published, and under which tenant."""

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.orchestrator.v1 import a2a_pb2, crew_pb2
from tests.integration.orchestrator.support import create_crew, crews, refused, spec
from tests.support.harness import ALICE, BOB, Harness

CODE = grpc.StatusCode
PUBLISHED = a2a_pb2.A2ASpec(published=True, text_input="text")


async def publications(harness: Harness, bearer: str = ALICE) -> list[a2a_pb2.Publication]:
    """Return the publications of a group."""
    listed = await crews(harness, bearer).ListPublications(a2a_pb2.ListPublicationsRequest())
    return list(listed.publications)


async def publish(harness: Harness, crew_id: str, a2a: a2a_pb2.A2ASpec) -> crew_pb2.Crew:
    """Store a revision that is published, or is not any more."""
    request = crew_pb2.UpdateCrewRequest(
        id=crew_id, spec=crew_pb2.CrewSpec(a2a=a2a), update_mask=FieldMask(paths=["a2a"])
    )
    return (await crews(harness).UpdateCrew(request)).crew


async def test_a_tenant_outlives_revisions_and_is_another_one_after_a_crew_was_not_published(harness: Harness) -> None:
    made = await create_crew(harness, a2a=PUBLISHED)
    (first,) = await publications(harness)
    assert (first.crew_id, first.crew_name, first.is_default) == (made.id, "brief", False)
    assert len(first.tenant) == 32
    changed = a2a_pb2.A2ASpec(published=True, text_input="topic", is_default=True)
    assert (await publish(harness, made.id, changed)).revision == 2
    (second,) = await publications(harness)
    assert (second.tenant, second.is_default) == (first.tenant, True)
    await publish(harness, made.id, a2a_pb2.A2ASpec())
    assert not await publications(harness)
    await publish(harness, made.id, PUBLISHED)
    (third,) = await publications(harness)
    assert third.tenant != first.tenant
    assert not await publications(harness, BOB)
    await crews(harness).DeleteCrew(crew_pb2.DeleteCrewRequest(id=made.id))
    assert not await publications(harness)


async def test_a_group_has_one_default_and_each_fault_of_a_publication_names_its_field(harness: Harness) -> None:
    default = a2a_pb2.A2ASpec(published=True, text_input="text", is_default=True)
    await create_crew(harness, name="first", a2a=default)
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as another:
        await create_crew(harness, name="second", a2a=default)
    assert list(another.violations) == ["spec.a2a.is_default"]
    await create_crew(harness, BOB, name="first", a2a=default)
    broken = a2a_pb2.A2ASpec(
        published=True,
        file_input="scan",
        skills=[a2a_pb2.A2ASkill(id="s", name="S"), a2a_pb2.A2ASkill(id="s", name="T")],
        input_modes=["text"],
    )
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await create_crew(harness, name="third", a2a=broken)
    assert set(refusal.violations) == {
        "spec.a2a.text_input",
        "spec.a2a.file_input",
        "spec.a2a.skills[1].id",
        "spec.a2a.input_modes[0]",
    }
    assert "one of topic, text" in refusal.violations["spec.a2a.text_input"]
    # What a message always gives needs no name.
    only = spec("fourth", a2a=a2a_pb2.A2ASpec(published=True))
    only.agents[0].role, only.tasks[1].description = "Reader", "Edit, after {a2a_context}"
    stored = (await crews(harness).CreateCrew(crew_pb2.CreateCrewRequest(spec=only))).crew
    assert list(stored.input_names) == ["text", "a2a_context"]
