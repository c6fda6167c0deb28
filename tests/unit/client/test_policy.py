"""What is repeated follows from the protos."""

import json
from pathlib import Path

from google.protobuf.descriptor_pb2 import MethodOptions

from coxswain.client import policy
from coxswain.common.v1 import access_pb2

GENERATED = Path(access_pb2.__file__).parents[2]


def repeated() -> set[str]:
    config = json.loads(policy.service_config())["methodConfig"][0]
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    return {f"{name['service'].rsplit('.', 1)[1]}/{name['method']}" for name in config["name"]}


def test_reads_and_idempotent_writes_are_repeated() -> None:
    assert {"CrewService/GetCrew", "MemoryService/SaveRecords", "AuthService/WhoAmI"} <= repeated()


def test_what_carries_a_request_id_is_repeated_whatever_its_level() -> None:
    carrying = [
        method
        for method in policy.methods()
        if "request_id" in method.input_type.fields_by_name and not method.server_streaming
    ]
    assert {f"{method.containing_service.name}/{method.name}" for method in carrying} <= repeated()
    levels = {method.name: method.GetOptions().idempotency_level for method in carrying}
    assert levels["StartExecution"] == MethodOptions.IDEMPOTENCY_UNKNOWN


def test_every_service_is_known_to_the_client() -> None:
    # What others implement is called by the tool gateway alone.
    generated = {path.stem for path in GENERATED.glob("*/v1/*_service_pb2.py") if path.parts[-3] != "tools"}
    assert {Path(file.name).stem + "_pb2" for file in policy.FILES} == generated


def test_a_whole_answer_is_repeated_as_its_request_id_has_it_billed_once_and_a_streamed_one_is_not() -> None:
    assert {"InferenceService/Complete", "InferenceService/StreamComplete"} & repeated() == {
        "InferenceService/Complete"
    }


def test_streams_are_left_to_whoever_reads_them() -> None:
    assert "ExecutionService/WatchExecution" not in repeated()


def test_streams_of_events_and_progress_have_no_default_deadline() -> None:
    assert policy.default_timeout("/coxswain.orchestrator.v1.ExecutionService/WatchExecution", 30) is None
    assert policy.default_timeout("/coxswain.memory.v1.MemoryBackendService/ProvisionMemoryBackend", 30) is None
    assert policy.default_timeout("/coxswain.orchestrator.v1.CrewService/GetCrew", 30) == 30


def test_models_have_ten_minutes_unless_all_calls_have_more() -> None:
    assert policy.default_timeout("/coxswain.models.v1.InferenceService/Complete", 30) == 600
    assert policy.default_timeout("/coxswain.models.v1.InferenceService/StreamComplete", 900) == 900
