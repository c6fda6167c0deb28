"""Bad input gets a precise status with the path of the field at fault and leaves nothing behind (both deployments)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest

from coxswain.client.errors import from_rpc_error
from coxswain.client.results import EVERY_FIELD
from coxswain.orchestrator.v1.crew_pb2 import (
    CreateCrewRequest,
    CrewSpec,
    ListCrewsRequest,
    UpdateCrewRequest,
    ValidateCrewRequest,
)
from coxswain.orchestrator.v1.execution_pb2 import ListExecutionsRequest, StartExecutionRequest
from tests.e2e.support import ALICE, Scene, refused, stored_counts
from tests.support.installation import Caller, Installation

_INVALID = grpc.StatusCode.INVALID_ARGUMENT


@dataclass(frozen=True)
class Fault:
    """Something done to a good crew, and what must come of it."""

    spoil: Callable[[CrewSpec], object]
    field: str
    says: str


def _close_a_cycle(crew: CrewSpec) -> None:
    crew.tasks[0].context.tasks.append("second")
    crew.tasks[1].context.tasks.append("first")


_FAULTS = {
    "an unknown agent": Fault(lambda crew: setattr(crew.tasks[1], "agent", "wroker"), "spec.tasks[1].agent", "worker"),
    "a cycle": Fault(_close_a_cycle, "spec.tasks[0].context.tasks[0]", "cycle"),
    "an unknown context": Fault(
        lambda crew: crew.tasks[1].context.tasks.append("frist"), "spec.tasks[1].context.tasks[0]", "first"
    ),
    "an unknown tool": Fault(
        lambda crew: crew.agents[0].tools.add(name="calculater"), "spec.agents[0].tools[0].name", "calculator"
    ),
    "an unknown model": Fault(
        lambda crew: setattr(crew, "model", "openai/gpt-4.1-mni"), "spec.model", "openai/gpt-4.1-mini"
    ),
    "an oversized text": Fault(
        lambda crew: setattr(crew.tasks[0], "description", "x" * 131073),
        "spec.tasks[0].description",
        "131072",
    ),
    "no agents": Fault(lambda crew: crew.ClearField("agents"), "spec.agents", "1"),
}


@pytest.fixture
def untouched(installation: Installation, scene: Scene) -> Iterator[None]:
    """Check that the test leaves no row behind."""
    before = stored_counts(installation)
    yield
    assert stored_counts(installation) == before


@pytest.mark.parametrize("fault", [pytest.param(fault, id=name) for name, fault in _FAULTS.items()])
def test_a_crew_that_cannot_run_is_refused_where_it_is_wrong(
    scene: Scene, alice: Caller, untouched: None, fault: Fault
) -> None:
    crew = scene.crew("first", "second")
    fault.spoil(crew)

    with refused(_INVALID, "CREW_INVALID") as refusal:
        alice.orchestrator.crews.CreateCrew(CreateCrewRequest(spec=crew, request_id=scene.mark))

    violation = refusal.error.violations[0]
    assert violation.field == fault.field
    assert fault.says in violation.description


def test_all_faults_of_a_crew_are_told_at_once(scene: Scene, alice: Caller) -> None:
    crew = scene.crew("first", "second")
    for name in ("an unknown agent", "an unknown tool", "an unknown model"):
        _FAULTS[name].spoil(crew)

    faults = alice.orchestrator.crews.ValidateCrew(ValidateCrewRequest(spec=crew)).faults

    assert {fault.field for fault in faults} >= {
        "spec.tasks[1].agent",
        "spec.agents[0].tools[0].name",
        "spec.model",
    }


def test_a_bad_revision_changes_nothing(scene: Scene, alice: Caller) -> None:
    crew = alice.orchestrator.apply_crew(scene.crew("first", "second")).crew
    spoilt = CrewSpec()
    spoilt.CopyFrom(crew.spec)
    _FAULTS["an unknown agent"].spoil(spoilt)

    with refused(_INVALID, "CREW_INVALID"):
        alice.orchestrator.crews.UpdateCrew(UpdateCrewRequest(id=crew.id, spec=spoilt, update_mask=EVERY_FIELD))

    assert alice.orchestrator.get_crew(crew.id) == crew


def test_an_execution_of_nothing_is_refused(alice: Caller, untouched: None) -> None:
    with refused(_INVALID, "INVALID_FIELD") as refusal:
        alice.orchestrator.executions.StartExecution(StartExecutionRequest())
    assert refusal.fields == ["crew"]

    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND") as refusal:
        alice.orchestrator.executions.StartExecution(StartExecutionRequest(crew_id="no-such-crew"))
    assert refusal.error.metadata == {"resource": "crew", "id": "no-such-crew"}


def test_a_page_token_counts_for_its_own_listing_only(scene: Scene, alice: Caller) -> None:
    for number in range(2):
        crew = scene.crew("first")
        crew.name += f"-{number}"
        alice.orchestrator.apply_crew(crew)
    token = alice.orchestrator.crews.ListCrews(ListCrewsRequest(page_size=1)).next_page_token
    assert token

    for listing in (
        lambda: alice.orchestrator.crews.ListCrews(ListCrewsRequest(page_token="no token")),
        lambda: alice.orchestrator.crews.ListCrews(ListCrewsRequest(page_token=token[:-3])),
        lambda: alice.orchestrator.executions.ListExecutions(ListExecutionsRequest(page_token=token)),
    ):
        with refused(_INVALID, "INVALID_PAGE_TOKEN") as refusal:
            listing()
        assert refusal.fields == ["page_token"]


@pytest.mark.parametrize("method", ["StartExecution", "GetExecution"])
def test_bytes_that_are_no_message_are_named_as_such(
    scene: Scene, installation: Installation, untouched: None, method: str
) -> None:
    with installation.channel("orchestrator") as channel:
        call = channel.unary_unary(
            f"/coxswain.orchestrator.v1.ExecutionService/{method}",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        with refused(_INVALID, "MALFORMED_MESSAGE") as refusal:
            try:
                call(b"\xff\xfe\xfd", metadata=(("authorization", f"Bearer {ALICE}"),), timeout=30)
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error

    assert refusal.error.metadata == {"message": f"coxswain.orchestrator.v1.{method}Request"}


@pytest.mark.parametrize(
    ("token", "groups"),
    [("dev:carol:sales=editor,legal=editor", "legal,sales"), ("dev:carol", "")],
    ids=["two groups", "no group"],
)
def test_a_caller_who_names_no_group_is_asked_for_one(
    installation: Installation, scene: Scene, untouched: None, token: str, groups: str
) -> None:
    crew = scene.crew("first")
    with (
        installation.client("orchestrator", token) as client,
        refused(grpc.StatusCode.FAILED_PRECONDITION, "GROUP_REQUIRED") as refusal,
    ):
        client.crews.CreateCrew(CreateCrewRequest(spec=crew))

    assert refusal.error.metadata == {"groups": groups}


def test_an_operator_cannot_change_crews(installation: Installation, scene: Scene, untouched: None) -> None:
    with (
        installation.client("orchestrator", "dev:olga:sales=operator") as client,
        refused(grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED") as refusal,
    ):
        client.crews.CreateCrew(CreateCrewRequest(spec=scene.crew("first")))

    assert refusal.error.metadata == {"required": "EDITOR", "actual": "OPERATOR"}


@pytest.mark.parametrize("token", ["something else", "dev:", "dev:eve:sales=emperor"])
def test_a_credential_nobody_issued_is_refused(
    installation: Installation, scene: Scene, untouched: None, token: str
) -> None:
    with (
        installation.client("orchestrator", f"Bearer {token}") as client,
        refused(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"),
    ):
        client.crews.CreateCrew(CreateCrewRequest(spec=scene.crew("first")))
