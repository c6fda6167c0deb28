"""CrewService over real gRPC."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from coxswain.memory.v1.memory_pb2 import (
    DeriveMemoryIdRequest,
    ListRecordsRequest,
    Namespace,
    RecordFilter,
    SaveRecordsRequest,
)
from coxswain.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from coxswain.memory.v1.record_pb2 import MEMORY_KIND_DOCUMENT, MEMORY_KIND_UNIFIED, Record, UnifiedRecord
from coxswain.models.v1 import model_pb2
from coxswain.models.v1.model_service_pb2_grpc import ModelServiceStub
from coxswain.orchestrator.v1 import batch_pb2, schedule_pb2
from coxswain.orchestrator.v1 import crew_pb2 as pb
from coxswain.orchestrator.v1.batch_service_pb2_grpc import BatchServiceStub
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from services.orchestrator.tables import crew_revisions
from services.orchestrator.usecases import schema_warnings
from tests.integration.orchestrator.support import (
    CAPABLE_MODEL,
    EVERY_FIELD,
    KEYED_MODEL,
    create_crew,
    crews,
    executions_of,
    refused,
    spec,
    start_request,
    store_key,
    working,
)
from tests.support.harness import ALICE, BOB, Harness, serve_services

OPERATOR = "dev:olga:sales=operator"
CODE = grpc.StatusCode


def replacing(crew_id: str, wanted: pb.CrewSpec, expected_revision: int = 0) -> pb.UpdateCrewRequest:
    """Return the request to replace a crew's whole document."""
    return pb.UpdateCrewRequest(id=crew_id, spec=wanted, update_mask=EVERY_FIELD, expected_revision=expected_revision)


async def test_a_crew_is_stored_and_found_by_id_and_by_name(harness: Harness) -> None:
    stub = crews(harness)
    made = await create_crew(harness)
    assert made.revision == 1
    by_id = (await stub.GetCrew(pb.GetCrewRequest(id=made.id))).crew
    by_name = (await stub.GetCrew(pb.GetCrewRequest(name="brief"))).crew
    assert by_id == by_name == made
    assert [task.name for task in by_id.spec.tasks] == ["read", "edit", "check"]
    assert list(by_id.input_names) == ["topic", "text"]


async def test_every_change_makes_a_revision_and_earlier_ones_stay(harness: Harness) -> None:
    stub = crews(harness)
    made = await create_crew(harness)
    changed = spec(description="shorter")
    second = (await stub.UpdateCrew(replacing(made.id, changed, expected_revision=1))).crew
    assert (second.revision, second.spec.description) == (2, "shorter")
    assert (await stub.GetCrew(pb.GetCrewRequest(id=made.id, revision=1))).crew.spec == made.spec
    assert (await stub.GetCrew(pb.GetCrewRequest(id=made.id))).crew == second
    with refused(CODE.NOT_FOUND, "NOT_FOUND") as refusal:
        await stub.GetCrew(pb.GetCrewRequest(id=made.id, revision=3))
    told = f'the crew "{made.id}" has no revision 3; give one from 1 to 2, or 0 for the newest'
    assert refusal.violations == {"revision": told}


async def test_an_update_without_a_change_makes_no_revision_however_often_it_is_repeated(harness: Harness) -> None:
    stub = crews(harness)
    made = await create_crew(harness)
    request = replacing(made.id, spec(description="new"), expected_revision=1)
    first, second = [(await stub.UpdateCrew(request)).crew for _ in range(2)]
    assert first == second
    assert first.revision == 2


async def test_a_change_made_from_an_older_revision_is_refused(harness: Harness) -> None:
    stub = crews(harness)
    made = await create_crew(harness)
    await stub.UpdateCrew(replacing(made.id, spec(description="mine"), expected_revision=1))
    with refused(CODE.ABORTED, "REVISION_MISMATCH") as refusal:
        await stub.UpdateCrew(replacing(made.id, spec(description="yours"), expected_revision=1))
    assert (refusal.metadata["expected"], refusal.metadata["actual"]) == ("1", "2")


async def test_of_many_changes_from_one_revision_exactly_one_wins(harness: Harness) -> None:
    stub = crews(harness)
    made = await create_crew(harness)
    requests = [replacing(made.id, spec(description=f"change {n}"), expected_revision=1) for n in range(8)]
    answers = await asyncio.gather(*(stub.UpdateCrew(request) for request in requests), return_exceptions=True)
    lost = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(lost) == 7
    assert {error.code() for error in lost} == {CODE.ABORTED}
    assert (await stub.GetCrew(pb.GetCrewRequest(id=made.id))).crew.revision == 2


async def test_an_update_changes_the_fields_its_mask_names_and_no_others(harness: Harness) -> None:
    stub = crews(harness)
    made = await create_crew(harness, description="old", model=CAPABLE_MODEL)
    given = pb.CrewSpec(name="renamed", description="new", memory=pb.MemorySpec(run_name="mine"))
    mask = FieldMask(paths=["description", "managerModel", "memory.run_name", "model"])
    changed = (await stub.UpdateCrew(pb.UpdateCrewRequest(name="brief", spec=given, update_mask=mask))).crew
    wanted = pb.CrewSpec()
    wanted.CopyFrom(made.spec)
    wanted.description, wanted.memory.run_name, wanted.model = "new", "mine", ""
    assert (changed.id, changed.revision, changed.spec) == (made.id, 2, wanted)


@pytest.mark.parametrize(
    ("paths", "field"),
    [([], "update_mask"), (["nothing"], "update_mask.paths[0]"), (["name", "*"], "update_mask.paths[1]")],
)
async def test_a_mask_that_names_no_field_of_a_crew_is_refused(harness: Harness, paths: list[str], field: str) -> None:
    made = await create_crew(harness)
    request = pb.UpdateCrewRequest(id=made.id, spec=spec(), update_mask=FieldMask(paths=paths))
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await crews(harness).UpdateCrew(request)
    assert list(refusal.violations) == [field]
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await crews(harness).UpdateCrew(pb.UpdateCrewRequest(id=made.id, spec=spec()))
    assert list(refusal.violations) == ["update_mask"]


async def test_a_change_that_breaks_a_rule_is_refused_by_its_field(harness: Harness) -> None:
    made = await create_crew(harness)
    given = pb.CrewSpec(agents=[pb.AgentSpec(name="reader", role="x" * 5000, goal="Read")])
    request = pb.UpdateCrewRequest(id=made.id, spec=given, update_mask=FieldMask(paths=["agents"]))
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await crews(harness).UpdateCrew(request)
    # The other agent is gone as well.
    assert list(refusal.violations) == ["spec.agents[0].role", "spec.tasks[1].agent"]


async def test_changes_of_different_fields_at_once_are_all_kept(harness: Harness) -> None:
    stub = crews(harness)
    made = await create_crew(harness)
    given: dict[str, Any] = {"description": "new", "planning_model": "p", "manager_model": "m", "model": CAPABLE_MODEL}
    await asyncio.gather(
        *(
            stub.UpdateCrew(
                pb.UpdateCrewRequest(id=made.id, spec=pb.CrewSpec(**{name: value}), update_mask=FieldMask(paths=[name]))
            )
            for name, value in given.items()
        )
    )
    crew = (await stub.GetCrew(pb.GetCrewRequest(id=made.id))).crew
    assert {name: getattr(crew.spec, name) for name in given} == given
    assert crew.revision == 5


async def test_a_crew_is_deleted_by_name_and_a_later_one_of_that_name_is_another(harness: Harness) -> None:
    stub = crews(harness)
    made = await create_crew(harness)
    for _ in range(2):
        await stub.DeleteCrew(pb.DeleteCrewRequest(name="brief"))
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await stub.DeleteCrew(pb.DeleteCrewRequest(name="never"))
    again = await create_crew(harness)
    await stub.DeleteCrew(pb.DeleteCrewRequest(id=made.id))
    assert (await stub.GetCrew(pb.GetCrewRequest(name="brief"))).crew == again


async def test_a_name_is_taken_once_until_its_crew_is_deleted(harness: Harness) -> None:
    stub = crews(harness)
    made = await create_crew(harness)
    other = await create_crew(harness, name="other")
    with refused(CODE.ALREADY_EXISTS, "ALREADY_EXISTS") as refusal:
        await create_crew(harness)
    assert refusal.metadata == {"resource": "crew", "name": "brief"}
    with refused(CODE.ALREADY_EXISTS, "ALREADY_EXISTS"):
        await stub.UpdateCrew(replacing(other.id, spec()))
    await stub.DeleteCrew(pb.DeleteCrewRequest(id=made.id))
    await stub.DeleteCrew(pb.DeleteCrewRequest(id=made.id))
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await stub.GetCrew(pb.GetCrewRequest(id=made.id))
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await stub.UpdateCrew(replacing(made.id, spec()))
    assert (await create_crew(harness)).id != made.id


async def test_one_request_id_makes_one_crew_even_at_once(harness: Harness) -> None:
    stub = crews(harness)
    request = pb.CreateCrewRequest(spec=spec(), request_id="r-1")
    made = await asyncio.gather(*(stub.CreateCrew(request) for _ in range(6)))
    assert len({answer.crew.id for answer in made}) == 1
    with refused(CODE.ALREADY_EXISTS, "REQUEST_ID_REUSED") as refusal:
        await stub.CreateCrew(pb.CreateCrewRequest(spec=spec("other"), request_id="r-1"))
    assert refusal.metadata == {"request_id": "r-1"}
    assert len((await stub.ListCrews(pb.ListCrewsRequest())).crews) == 1


async def test_one_request_id_of_another_person_is_another_request(harness: Harness) -> None:
    mine = await crews(harness).CreateCrew(pb.CreateCrewRequest(spec=spec(), request_id="r-1"))
    colleague = crews(harness, "dev:carol:sales=editor")
    theirs = await colleague.CreateCrew(pb.CreateCrewRequest(spec=spec("other"), request_id="r-1"))
    assert mine.crew.id != theirs.crew.id


async def test_crews_are_listed_newest_first_page_by_page(harness: Harness) -> None:
    stub = crews(harness)
    made = [(await create_crew(harness, name=f"crew {n}")).id for n in range(5)]
    await stub.DeleteCrew(pb.DeleteCrewRequest(id=made[2]))
    seen, token = [], ""
    while True:
        page = await stub.ListCrews(pb.ListCrewsRequest(page_size=2, page_token=token))
        seen += [crew.id for crew in page.crews]
        token = page.next_page_token
        if not token:
            break
    assert seen == [made[4], made[3], made[1], made[0]]


async def test_a_crew_that_cannot_run_is_refused_with_every_fault_and_not_stored(harness: Harness) -> None:
    stub = crews(harness)
    bad = spec(model="offline/extrac")
    bad.tasks[1].agent = "editr"
    bad.tasks[0].tools.add(name="calculater")
    bad.tasks[0].context.tasks.append("check")
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await stub.CreateCrew(pb.CreateCrewRequest(spec=bad))
    assert list(refusal.violations) == [
        "spec.tasks[0].context.tasks[0]",
        "spec.tasks[0].tools[0].name",
        "spec.tasks[1].agent",
        "spec.model",
    ]
    assert "offline/extract" in refusal.violations["spec.model"]
    assert not (await stub.ListCrews(pb.ListCrewsRequest())).crews
    made = await create_crew(harness)
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID"):
        await stub.UpdateCrew(replacing(made.id, bad))
    assert (await stub.GetCrew(pb.GetCrewRequest(id=made.id))).crew == made


async def test_validation_answers_with_the_same_faults_without_storing_anything(harness: Harness) -> None:
    stub = crews(harness, OPERATOR)
    bad = spec(manager_model="x")
    bad.tasks[1].agent = "nobody"
    answer = await stub.ValidateCrew(pb.ValidateCrewRequest(spec=bad))
    assert [fault.field for fault in answer.faults] == ["spec.tasks[1].agent"]
    assert [warning.field for warning in answer.warnings] == ["spec.agents[1]", "spec.manager_model"]
    assert not (await stub.ValidateCrew(pb.ValidateCrewRequest(spec=spec()))).faults
    assert not (await stub.ListCrews(pb.ListCrewsRequest())).crews


async def test_knowledge_has_one_source_and_a_memory_that_can_be_asked(harness: Harness) -> None:
    stub = crews(harness)
    stored_crew = await create_crew(harness)
    bad = spec("other")
    bad.knowledge.add(name="nothing")
    bad.knowledge.add(name="crew").memory.memory_id = stored_crew.id
    bad.knowledge.add(name="odd").memory.kind = 99  # type: ignore[assignment]
    bad.agents[0].knowledge.add(name="manual").memory.CopyFrom(
        pb.KnowledgeMemory(memory_id="handbook", kind=MEMORY_KIND_DOCUMENT, scope="/a")
    )
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await stub.CreateCrew(pb.CreateCrewRequest(spec=bad))
    assert list(refusal.violations) == [
        "spec.agents[0].knowledge[0].memory.memory_id",
        "spec.agents[0].knowledge[0].memory.scope",
        "spec.knowledge[0].source",
        "spec.knowledge[1].memory.memory_id",
        "spec.knowledge[2].memory.memory_id",
        "spec.knowledge[2].memory.kind",
    ]
    assert refusal.violations["spec.knowledge[0].source"] == "set one of content or memory"
    assert "which GetCrew returns" in refusal.violations["spec.knowledge[1].memory.memory_id"]

    good = spec("other")
    good.knowledge.add(name="text", content="Ships float.")
    good.knowledge.add(name="handbook").memory.CopyFrom(pb.KnowledgeMemory(memory_id="handbook", scope="/a"))
    good.agents[0].knowledge.add(name="manual").memory.kind = MEMORY_KIND_DOCUMENT
    made = (await stub.CreateCrew(pb.CreateCrewRequest(spec=good))).crew
    good.knowledge[1].memory.kind = MEMORY_KIND_UNIFIED
    for shown in (made, (await stub.GetCrew(pb.GetCrewRequest(id=made.id))).crew):
        assert list(shown.spec.knowledge) == list(good.knowledge)
        assert list(shown.spec.agents[0].knowledge) == list(good.agents[0].knowledge)


async def test_broken_rules_and_faults_come_in_one_list_in_the_order_of_the_document(harness: Harness) -> None:
    bad = spec("")
    bad.agents[0].role = "x" * 5000
    bad.agents[1].goal = " "
    bad.agents[1].temperature = 7
    bad.tasks[1].agent = "nobody"
    bad.tasks[2].output_schema.update({"type": "object", "minimum": float("nan")})
    answer = await crews(harness).ValidateCrew(pb.ValidateCrewRequest(spec=bad))
    assert [fault.field for fault in answer.faults] == [
        "spec.name",
        "spec.agents[0].role",
        "spec.agents[1].goal",
        "spec.agents[1].temperature",
        "spec.tasks[1].agent",
        "spec.tasks[2].output_schema.minimum",
    ]
    assert all(fault.description for fault in answer.faults)
    nothing = await crews(harness).ValidateCrew(pb.ValidateCrewRequest())
    assert {"spec.name", "spec.agents", "spec.tasks"} <= {fault.field for fault in nothing.faults}


async def test_what_a_model_cannot_do_is_refused_and_what_another_can_is_not(harness: Harness) -> None:
    stub = crews(harness)
    wanting = spec(planning=True, process=pb.PROCESS_HIERARCHICAL)
    wanting.agents[0].allow_delegation = True
    wanting.agents[1].tools.add(name="calculator")
    wanting.tasks[0].output_schema.update({"type": "object"})
    wanting.tasks[1].guardrails.append("Be brief")
    answer = await stub.ValidateCrew(pb.ValidateCrewRequest(spec=wanting))
    assert not answer.faults
    # An execution may name another model than the default.
    assert [fault.field for fault in answer.warnings] == [
        "spec.agents[0].allow_delegation",
        "spec.agents[1].tools",
        "spec.tasks[0].output_schema",
        "spec.tasks[1].guardrails",
        "spec.process",
        "spec.planning",
    ]
    assert all('"offline/extract", the default of this installation' in fault.description for fault in answer.warnings)
    made = (await stub.CreateCrew(pb.CreateCrewRequest(spec=wanting))).crew
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID"):
        await executions_of(harness).StartExecution(start_request(made.id))
    await executions_of(harness).StartExecution(start_request(made.id, model=CAPABLE_MODEL))
    wanting.model = CAPABLE_MODEL
    assert not (await stub.ValidateCrew(pb.ValidateCrewRequest(spec=wanting))).faults
    wanting.memory.enabled = True
    wanting.memory.embedding_model = CAPABLE_MODEL
    answer = await stub.ValidateCrew(pb.ValidateCrewRequest(spec=wanting))
    assert [fault.field for fault in answer.faults] == ["spec.memory.embedding_model"]


async def test_a_model_the_group_switched_off_is_a_fault(harness: Harness) -> None:
    models = ModelServiceStub(harness.channel())
    await models.SetModelEnabled(model_pb2.SetModelEnabledRequest(name=CAPABLE_MODEL, enabled=False))
    answer = await crews(harness).ValidateCrew(pb.ValidateCrewRequest(spec=spec(model=CAPABLE_MODEL)))
    assert ["disabled" in fault.description for fault in answer.faults] == [True]
    assert [fault.field for fault in answer.faults] == ["spec.model"]


async def test_broken_rules_and_faults_are_refused_together_and_nothing_is_stored(harness: Harness) -> None:
    bad = spec("two\nlines")
    bad.agents[0].role = "x" * 5000
    bad.agents[1].goal = ""
    bad.tasks[1].agent = "nobody"
    bad.tasks[2].output_schema.update({"type": "object", "minimum": float("inf")})
    found = ["spec.name", "spec.agents[0].role", "spec.agents[1].goal", "spec.tasks[1].agent"]
    found += ["spec.tasks[2].output_schema.minimum"]
    stub = crews(harness)
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await stub.CreateCrew(pb.CreateCrewRequest(spec=bad))
    assert list(refusal.violations) == found
    assert "line breaks" in refusal.violations["spec.name"]
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await stub.CreateCrew(pb.CreateCrewRequest())
    assert {"spec.name", "spec.agents", "spec.tasks"} <= set(refusal.violations)
    assert not (await stub.ListCrews(pb.ListCrewsRequest())).crews


async def test_a_model_without_a_credential_is_warned_of(harness: Harness) -> None:
    stub = crews(harness)
    wanting = spec(model=KEYED_MODEL)
    answer = await stub.ValidateCrew(pb.ValidateCrewRequest(spec=wanting))
    assert not answer.faults
    (warning,) = answer.warnings
    assert (warning.field, KEYED_MODEL in warning.description) == ("spec.model", True)
    assert "credential" in warning.description
    created = await stub.CreateCrew(pb.CreateCrewRequest(spec=wanting))
    assert list(created.warnings) == [warning]
    assert not (await stub.CreateCrew(pb.CreateCrewRequest(spec=spec("offline")))).warnings


async def test_nothing_starts_on_a_model_without_a_credential_until_one_is_stored(harness: Harness) -> None:
    own = (await crews(harness).CreateCrew(pb.CreateCrewRequest(spec=spec("own", model=KEYED_MODEL)))).crew
    offline = (await crews(harness).CreateCrew(pb.CreateCrewRequest(spec=spec("offline")))).crew
    batches, schedules = BatchServiceStub(harness.channel()), ScheduleServiceStub(harness.channel())
    own_start, override = start_request(own.id), start_request(offline.id, model=KEYED_MODEL)
    for at_fault, start in (("spec.model", own_start), ("model", override)):
        plan = schedule_pb2.Schedule(name="daily", cron="0 6 * * *", start=start)
        for prefix, call in (
            ("", executions_of(harness).StartExecution(start)),
            ("start.", batches.StartBatch(batch_pb2.StartBatchRequest(start=start, inputs=[Struct()]))),
            ("schedule.start.", schedules.CreateSchedule(schedule_pb2.CreateScheduleRequest(schedule=plan))),
        ):
            with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
                await call
            (field,) = refusal.violations
            assert field == (at_fault if at_fault.startswith("spec") else f"{prefix}{at_fault}")
            assert 'PutSecret, named "llm/openai"' in refusal.violations[field]
    # One of Databricks may be the caller's own, who need not be whom the execution acts as.
    foreign = start_request(offline.id, model="databricks/databricks-meta-llama-3-3-70b-instruct")
    assert (await executions_of(harness).StartExecution(foreign)).execution.crew_id == offline.id
    await store_key(harness)
    assert (await executions_of(harness).StartExecution(start_request(own.id))).execution.crew_id == own.id


async def test_undecodable_bytes_are_refused_with_the_name_of_the_message(harness: Harness) -> None:
    call = harness.channel().unary_unary("/coxswain.orchestrator.v1.CrewService/CreateCrew")
    with refused(CODE.INVALID_ARGUMENT, "MALFORMED_MESSAGE") as refusal:
        await call(b"\xff\xff\xff")
    assert refusal.metadata == {"message": "coxswain.orchestrator.v1.CreateCrewRequest"}


@pytest.mark.parametrize("token", ["x", "W10", "eyJhIjoxfQ", "WyIwMTIzNDU2Nzg5YWJjZGVmIixbMV1d"])
async def test_a_token_that_is_none_of_this_listing_is_refused(harness: Harness, token: str) -> None:
    with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await crews(harness).ListCrews(pb.ListCrewsRequest(page_token=token))


async def test_an_operator_reads_and_an_editor_changes(harness: Harness) -> None:
    made = await create_crew(harness)
    stub = crews(harness, OPERATOR)
    assert (await stub.GetCrew(pb.GetCrewRequest(id=made.id))).crew == made
    for call in (
        stub.CreateCrew(pb.CreateCrewRequest(spec=spec("other"))),
        stub.UpdateCrew(replacing(made.id, spec("other"))),
        stub.DeleteCrew(pb.DeleteCrewRequest(id=made.id)),
    ):
        with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await call


async def test_another_group_sees_changes_and_blocks_nothing(harness: Harness) -> None:
    made = await create_crew(harness)
    foreign = crews(harness, BOB)
    assert not (await foreign.ListCrews(pb.ListCrewsRequest())).crews
    for call in (
        foreign.GetCrew(pb.GetCrewRequest(id=made.id)),
        foreign.GetCrew(pb.GetCrewRequest(name="brief")),
        foreign.UpdateCrew(replacing(made.id, spec(description="theirs"))),
        foreign.DeleteCrew(pb.DeleteCrewRequest(id=made.id)),
    ):
        with refused(CODE.NOT_FOUND, "NOT_FOUND") as refusal:
            await call
        assert made.id in refusal.message or "brief" in refusal.message
    # Names and request ids of one group are free in another.
    theirs = await foreign.CreateCrew(pb.CreateCrewRequest(spec=spec(), request_id="r-1"))
    mine = await crews(harness).CreateCrew(pb.CreateCrewRequest(spec=spec("mine"), request_id="r-1"))
    assert len({theirs.crew.id, mine.crew.id, made.id}) == 3
    assert (await crews(harness).GetCrew(pb.GetCrewRequest(id=made.id))).crew == made


async def test_a_page_token_of_one_group_says_nothing_to_another(harness: Harness) -> None:
    for number in range(3):
        await create_crew(harness, name=f"crew {number}")
    page = await crews(harness).ListCrews(pb.ListCrewsRequest(page_size=1))
    with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await crews(harness, BOB).ListCrews(pb.ListCrewsRequest(page_size=1, page_token=page.next_page_token))


async def test_a_page_of_large_crews_is_shorter_and_goes_on(harness: Harness) -> None:
    stub = crews(harness)
    made = []
    for number in range(3):
        large = spec(f"crew {number}")
        for part in range(2):
            large.knowledge.add(name=f"part {part}", content="x" * 700_000)
        made.append((await stub.CreateCrew(pb.CreateCrewRequest(spec=large))).crew.id)
    seen, token = [], ""
    while True:
        page = await stub.ListCrews(pb.ListCrewsRequest(page_token=token))
        seen += [crew.id for crew in page.crews]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[::-1]


async def test_a_crew_larger_than_allowed_is_a_fault(harness: Harness) -> None:
    large = spec()
    for part in range(3):
        large.knowledge.add(name=f"part {part}", content="x" * 1_000_000)
    answer = await crews(harness).ValidateCrew(pb.ValidateCrewRequest(spec=large))
    assert [fault.field for fault in answer.faults] == ["spec"]


NUL = "a\0b"


@pytest.mark.parametrize(
    "request_", [pb.GetCrewRequest(id=NUL), pb.GetCrewRequest(name=NUL), pb.DeleteCrewRequest(id=NUL)]
)
async def test_a_character_no_database_keeps_is_the_callers_fault(harness: Harness, request_: Any) -> None:
    stub = crews(harness)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (stub.DeleteCrew(request_) if isinstance(request_, pb.DeleteCrewRequest) else stub.GetCrew(request_))
    assert caught.value.code() in {CODE.NOT_FOUND, CODE.INVALID_ARGUMENT}
    bad = spec("a\0b")
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.CreateCrew(pb.CreateCrewRequest(spec=bad))
    assert set(refusal.violations) == {"spec.name"}


async def test_a_crew_says_under_which_id_its_memories_are_stored(database_url: str, tmp_path: Path) -> None:
    async with serve_services(tmp_path, "models", "memory", "orchestrator", database_url=database_url) as served:
        stub = crews(served)
        made = await create_crew(served)
        assert made.memory_id == ""
        mask = FieldMask(paths=["memory.enabled"])
        given = pb.CrewSpec(memory=pb.MemorySpec(enabled=True))
        changed = (await stub.UpdateCrew(pb.UpdateCrewRequest(id=made.id, spec=given, update_mask=mask))).crew
        assert changed.memory_id
        assert (await stub.GetCrew(pb.GetCrewRequest(id=made.id))).crew == changed
        assert list((await stub.ListCrews(pb.ListCrewsRequest())).crews) == [changed]
        other = await create_crew(served, name="other", memory=pb.MemorySpec(enabled=True))
        assert other.memory_id not in {"", changed.memory_id}
        derived = await MemoryServiceStub(served.channel()).DeriveMemoryId(
            DeriveMemoryIdRequest(
                agent_roles=[agent.role for agent in other.spec.agents],
                task_names=[task.name for task in other.spec.tasks],
                crew_name="other",
            )
        )
        assert derived.memory_id == other.memory_id
        # A release that did not keep the id has stored it.
        async with working(served, database_url) as worker, worker.database.write() as connection:
            await connection.execute(crew_revisions.update().values(memory_id=None))
        assert (await stub.GetCrew(pb.GetCrewRequest(id=made.id))).crew == changed
        assert (await stub.GetCrew(pb.GetCrewRequest(id=made.id, revision=1))).crew == made


async def test_a_memory_with_a_name_stays_and_one_without_can_be_carried_over(
    database_url: str, tmp_path: Path
) -> None:
    async with serve_services(tmp_path, "models", "memory", "orchestrator", database_url=database_url) as served:
        stub, memory = crews(served), MemoryServiceStub(served.channel())
        made = await create_crew(served, memory=pb.MemorySpec(enabled=True))
        for number, private in enumerate([False, True, False]):
            scope = "/crew/brief/agent/reader" if number < 2 else "/elsewhere"
            record = Record(
                id=f"m{number}", unified=UnifiedRecord(content=f"Fact {number}.", scope=scope, private=private)
            )
            await memory.SaveRecords(
                SaveRecordsRequest(namespace=Namespace(memory_id=made.memory_id), records=[record])
            )

        async def change(carry: bool = False, **fields: Any) -> pb.UpdateCrewResponse:
            paths = ["memory.name" if name == "memory" else name for name in fields]
            mask = FieldMask(paths=paths)
            request = pb.UpdateCrewRequest(id=made.id, spec=pb.CrewSpec(**fields), update_mask=mask)
            request.carry_over_memories = carry
            return await stub.UpdateCrew(request)

        async def remembered(memory_id: str) -> dict[str, str]:
            request = ListRecordsRequest(
                namespace=Namespace(memory_id=memory_id), filter=RecordFilter(include_private=True)
            )
            return {record.id: record.unified.scope for record in (await memory.ListRecords(request)).records}

        renamed = await change(name="Other name")
        assert renamed.crew.memory_id != made.memory_id
        assert [warning.field for warning in renamed.warnings] == ["spec.memory"]
        assert made.memory_id in renamed.warnings[0].description
        assert not await remembered(renamed.crew.memory_id)
        carried = await change(carry=True, name="Other name")
        assert (carried.carried_memories, list(carried.warnings)) == (3, [])
        scopes = {"m0": "/crew/other-name/agent/reader", "m1": "/crew/other-name/agent/reader", "m2": "/elsewhere"}
        assert await remembered(carried.crew.memory_id) == scopes
        named = await change(carry=True, memory=pb.MemorySpec(name="customers"))
        assert named.carried_memories == 3
        assert (await remembered(named.crew.memory_id))["m0"] == "/crew/customers/agent/reader"
        again = await change(name="brief", model=CAPABLE_MODEL)
        assert again.crew.memory_id == named.crew.memory_id
        assert "spec.memory" not in [warning.field for warning in again.warnings]
        sharing = await create_crew(served, name="sharing", memory=pb.MemorySpec(enabled=True, name="customers"))
        assert sharing.memory_id == named.crew.memory_id
        elsewhere = await create_crew(served, BOB, name="x", memory=pb.MemorySpec(enabled=True, name="customers"))
        assert elsewhere.memory_id != named.crew.memory_id


async def test_a_memory_that_the_group_does_not_have_is_warned_of_as_knowledge(
    database_url: str, tmp_path: Path
) -> None:
    async with serve_services(tmp_path, "models", "memory", "orchestrator", database_url=database_url) as served:
        record = Record(id="m", unified=UnifiedRecord(content="Ships float.", scope="/"))
        await MemoryServiceStub(served.channel()).SaveRecords(
            SaveRecordsRequest(namespace=Namespace(memory_id="handbook", kind=MEMORY_KIND_UNIFIED), records=[record])
        )
        wanted = spec("other")
        wanted.knowledge.add(name="handbook").memory.memory_id = "handbook"
        wanted.knowledge.add(name="hand").memory.memory_id = "hand-book"

        async def warned(bearer: str) -> dict[str, str]:
            answer = await crews(served, bearer).ValidateCrew(pb.ValidateCrewRequest(spec=wanted))
            return {one.field: one.description for one in answer.warnings}

        mine = await warned(ALICE)
        assert mine.keys() == {"spec.knowledge[1].memory.memory_id"}
        assert "your group has no UNIFIED records of this id" in mine["spec.knowledge[1].memory.memory_id"]
        # What another group has reads like what nobody has.
        theirs = await warned(BOB)
        assert theirs.keys() == {f"spec.knowledge[{index}].memory.memory_id" for index in (0, 1)}
        assert len(set(theirs.values())) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_schemas_are_looked_at_beside_the_loop_and_what_is_none_is_told(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bool] = []

    def is_known(pattern: str) -> bool:
        looked.append(threading.current_thread() is threading.main_thread())
        return False

    monkeypatch.setattr(schema_warnings, "_is_known", is_known)
    wanted = spec()
    wanted.tasks[0].output_schema.update({"type": "object", "properties": {"code": {"pattern": "^a"}}})
    validated = await crews(harness).ValidateCrew(pb.ValidateCrewRequest(spec=wanted))
    assert "is not checked" in str(validated.warnings)
    assert set(looked) == {False}
    wanted.tasks[0].output_schema.update({"properties": []})
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await crews(harness).CreateCrew(pb.CreateCrewRequest(spec=wanted))
    assert list(refusal.violations) == ["spec.tasks[0].output_schema"]
