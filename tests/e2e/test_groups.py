"""Tenants never meet: a member of one group sees, changes and ends nothing of another's. On both deployments."""

from collections.abc import Callable, Iterator

import grpc
import pytest

from coxswain.client import Client
from coxswain.client.results import EVERY_FIELD
from coxswain.memory.v1.memory_pb2 import (
    ClearNamespaceRequest,
    CountRecordsRequest,
    DeleteRecordsRequest,
    GetRecordRequest,
    ListNamespacesRequest,
    ListRecordsRequest,
    Namespace,
    SaveRecordsRequest,
    SearchRecordsRequest,
)
from coxswain.memory.v1.record_pb2 import Record, UnifiedRecord
from coxswain.orchestrator.v1.crew_pb2 import (
    Crew,
    DeleteCrewRequest,
    GetCrewRequest,
    ListCrewsRequest,
    UpdateCrewRequest,
)
from coxswain.orchestrator.v1.execution_pb2 import (
    CancelExecutionRequest,
    CompareExecutionsRequest,
    Execution,
    ForkExecutionRequest,
    GetExecutionRequest,
    GetTaskOutputsRequest,
    ListExecutionsRequest,
    ResumeExecutionRequest,
    StartExecutionRequest,
    WatchExecutionRequest,
)
from tests.e2e.support import BOB, RUNNING, SUCCEEDED, Scene, finish, get, refused
from tests.support.installation import Caller, Installation


@pytest.fixture
def bob(installation: Installation) -> Iterator[Caller]:
    """An admin of another group, "legal"."""
    with installation.caller(BOB) as caller:
        yield caller


@pytest.fixture
def running(scene: Scene, alice: Caller) -> tuple[Crew, Execution]:
    """A crew of alice's, and an execution of it that waits for its model."""
    scene.answers("only", "Alice's result.", hang=True, times=1)
    scene.answers("only", "Alice's result.")
    crew = alice.orchestrator.apply_crew(scene.crew("only")).crew
    execution = alice.orchestrator.start(crew)
    scene.wait_until_hanging("only")
    return crew, execution


Call = Callable[[Client, Crew, Execution], object]
_FOREIGN_CALLS: dict[str, Call] = {
    "GetCrew by id": lambda c, crew, _: c.crews.GetCrew(GetCrewRequest(id=crew.id)),
    "GetCrew by name": lambda c, crew, _: c.crews.GetCrew(GetCrewRequest(name=crew.spec.name)),
    "UpdateCrew": lambda c, crew, _: c.crews.UpdateCrew(
        UpdateCrewRequest(id=crew.id, spec=crew.spec, update_mask=EVERY_FIELD)
    ),
    "DeleteCrew": lambda c, crew, _: c.crews.DeleteCrew(DeleteCrewRequest(id=crew.id)),
    "StartExecution": lambda c, crew, _: c.executions.StartExecution(StartExecutionRequest(crew_id=crew.id)),
    "GetExecution": lambda c, _, run: c.executions.GetExecution(GetExecutionRequest(id=run.id)),
    "GetTaskOutputs": lambda c, _, run: c.executions.GetTaskOutputs(GetTaskOutputsRequest(id=run.id)),
    "WatchExecution": lambda c, _, run: list(c.executions.WatchExecution(WatchExecutionRequest(id=run.id))),
    "CancelExecution": lambda c, _, run: c.executions.CancelExecution(CancelExecutionRequest(id=run.id)),
    "ResumeExecution": lambda c, _, run: c.executions.ResumeExecution(ResumeExecutionRequest(id=run.id)),
    "CompareExecutions": lambda c, _, run: c.executions.CompareExecutions(
        CompareExecutionsRequest(ids=[run.id, "01900000-0000-7000-8000-000000000001"])
    ),
    "ForkExecution": lambda c, _, run: c.executions.ForkExecution(ForkExecutionRequest(id=run.id)),
}


def test_ids_of_another_group_do_not_exist(
    scene: Scene, alice: Caller, bob: Caller, running: tuple[Crew, Execution]
) -> None:
    crew, execution = running
    no_crew, no_execution = Crew(), Execution()
    no_crew.CopyFrom(crew)
    no_crew.id = no_execution.id = "01900000-0000-7000-8000-000000000000"
    no_crew.spec.name = "there is none"

    for name, call in _FOREIGN_CALLS.items():
        with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND") as foreign:
            call(bob.orchestrator, crew, execution)
        with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND") as missing:
            call(bob.orchestrator, no_crew, no_execution)
        assert set(foreign.error.metadata) == set(missing.error.metadata), f"{name} tells one from the other"
        assert foreign.error.metadata["resource"] == missing.error.metadata["resource"]

    assert get(alice.orchestrator, execution).state == RUNNING
    assert alice.orchestrator.get_crew(crew.id) == crew
    scene.llm.release()
    finish(alice.orchestrator, execution)
    assert get(alice.orchestrator, execution).state == SUCCEEDED


def test_listings_end_at_the_group(scene: Scene, alice: Caller, bob: Caller, running: tuple[Crew, Execution]) -> None:
    crew, execution = running
    own = bob.orchestrator.apply_crew(scene.crew("other")).crew

    crews = bob.orchestrator.crews.ListCrews(ListCrewsRequest(page_size=1000)).crews
    executions = bob.orchestrator.executions.ListExecutions(ListExecutionsRequest(page_size=1000)).executions
    of_crew = bob.orchestrator.executions.ListExecutions(ListExecutionsRequest(crew_id=crew.id)).executions

    assert own.id in {listed.id for listed in crews}, "the same name is free in another group"
    assert crew.id not in {listed.id for listed in crews}
    assert execution.id not in {listed.id for listed in executions}
    assert not of_crew
    assert own.id not in {listed.id for listed in alice.orchestrator.crews.ListCrews(ListCrewsRequest()).crews}
    scene.llm.release()
    finish(alice.orchestrator, execution)


def test_a_group_one_is_no_member_of_cannot_be_chosen(
    scene: Scene, installation: Installation, alice: Caller, running: tuple[Crew, Execution]
) -> None:
    crew, execution = running
    with (
        installation.client("orchestrator", BOB, "sales") as client,
        refused(grpc.StatusCode.PERMISSION_DENIED, "GROUP_NOT_MEMBER") as refusal,
    ):
        client.get_crew(crew.id)

    assert refusal.error.metadata["group"] == "sales"
    scene.llm.release()
    finish(alice.orchestrator, execution)


def test_memories_of_another_group_are_out_of_reach(scene: Scene, alice: Caller, bob: Caller) -> None:
    namespace = Namespace(memory_id=scene.word("crew"))
    record = Record(id="secret", unified=UnifiedRecord(content="The code of the safe is 4711."))
    alice.memory.memory.SaveRecords(SaveRecordsRequest(namespace=namespace, records=[record]))
    memory = bob.memory.memory

    assert not memory.SearchRecords(SearchRecordsRequest(namespace=namespace, text="code of the safe")).results
    assert not memory.ListRecords(ListRecordsRequest(namespace=namespace)).records
    assert memory.CountRecords(CountRecordsRequest(namespace=namespace)).count == 0
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        memory.GetRecord(GetRecordRequest(namespace=namespace, id="secret"))
    assert memory.DeleteRecords(DeleteRecordsRequest(namespace=namespace, ids=["secret"])).deleted == 0
    assert memory.ClearNamespace(ClearNamespaceRequest(namespace=namespace)).deleted == 0
    listed = memory.ListNamespaces(ListNamespacesRequest(page_size=1000)).namespaces
    assert namespace.memory_id not in {info.namespace.memory_id for info in listed}

    own = Record(id="secret", unified=UnifiedRecord(content="Bob's own."))
    memory.SaveRecords(SaveRecordsRequest(namespace=namespace, records=[own]))
    kept = alice.memory.memory.GetRecord(GetRecordRequest(namespace=namespace, id="secret")).record
    assert kept.unified.content == "The code of the safe is 4711.", "the same id in another group is another row"
    found = alice.memory.memory.SearchRecords(
        SearchRecordsRequest(namespace=namespace, text="code of the safe")
    ).results
    assert [result.record.unified.content for result in found] == ["The code of the safe is 4711."]
