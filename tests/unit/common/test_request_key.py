"""A request_id identifies a request of its caller, RPC and content."""

from datetime import UTC, datetime

import pytest
from google.protobuf.message import Message

from coxswain.auth.v1.group_pb2 import CreateGroupRequest
from coxswain.memory.v1.memory_backend_pb2 import CreateMemoryBackendRequest
from coxswain.models.v1.model_pb2 import CreateModelRequest
from coxswain.orchestrator.v1.crew_pb2 import CreateCrewRequest
from coxswain.orchestrator.v1.execution_pb2 import ResumeExecutionRequest, StartExecutionRequest
from coxswain.orchestrator.v1.schedule_pb2 import CreateScheduleRequest
from services.common.db.idempotency import request_hash, request_key
from services.common.identity.principal import CredentialKind, Principal, Role

ALICE = Principal(
    "dev|alice", "sales", Role.EDITOR, False, CredentialKind.DEV, "", "", datetime(2027, 1, 1, tzinfo=UTC)
)


# Requests are stored under these names: another name would forget them.
@pytest.mark.parametrize(
    ("message", "method"),
    [
        (CreateGroupRequest(request_id="r"), "CreateGroup"),
        (CreateMemoryBackendRequest(request_id="r"), "CreateMemoryBackend"),
        (CreateModelRequest(request_id="r"), "CreateModel"),
        (CreateCrewRequest(request_id="r"), "CreateCrew"),
        (CreateScheduleRequest(request_id="r"), "CreateSchedule"),
        (StartExecutionRequest(request_id="r"), "StartExecution"),
        (ResumeExecutionRequest(request_id="r"), "ResumeExecution"),
    ],
)
def test_the_method_is_the_name_of_the_rpc(message: Message, method: str) -> None:
    key = request_key(ALICE, message)
    assert key is not None
    assert (key.group_id, key.subject, key.method, key.request_id) == ("sales", "dev|alice", method, "r")


def test_the_hash_is_of_the_content_without_the_request_id() -> None:
    first = request_key(ALICE, CreateGroupRequest(display_name="Sales", request_id="r1"))
    second = request_key(ALICE, CreateGroupRequest(display_name="Sales", request_id="r2"))
    other = request_key(ALICE, CreateGroupRequest(display_name="Support", request_id="r1"))
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.request_hash == second.request_hash != other.request_hash
    assert first.request_hash == request_hash(CreateGroupRequest(display_name="Sales"))


def test_a_request_without_a_request_id_has_no_key() -> None:
    assert request_key(ALICE, CreateGroupRequest(display_name="Sales")) is None
