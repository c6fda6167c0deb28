"""What is repeated follows from the protos."""

import json

from coxswain.client import policy


def repeated() -> set[str]:
    config = json.loads(policy.service_config())["methodConfig"][0]
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    return {f"{name['service'].rsplit('.', 1)[1]}/{name['method']}" for name in config["name"]}


def test_reads_and_idempotent_writes_are_repeated() -> None:
    assert {"CrewService/GetCrew", "MemoryService/SaveRecords", "AuthService/WhoAmI"} <= repeated()


def test_starting_is_repeated_because_it_carries_a_request_id() -> None:
    assert {"ExecutionService/StartExecution", "ExecutionService/ResumeExecution"} <= repeated()


def test_calls_that_may_be_billed_twice_are_not_repeated() -> None:
    assert not {"InferenceService/Complete", "InferenceService/StreamComplete"} & repeated()


def test_streams_are_left_to_whoever_reads_them() -> None:
    assert "ExecutionService/WatchExecution" not in repeated()


def test_streams_of_events_and_progress_have_no_default_deadline() -> None:
    assert policy.default_timeout("/coxswain.orchestrator.v1.ExecutionService/WatchExecution", 30) is None
    assert policy.default_timeout("/coxswain.memory.v1.MemoryBackendService/ProvisionMemoryBackend", 30) is None
    assert policy.default_timeout("/coxswain.orchestrator.v1.CrewService/GetCrew", 30) == 30


def test_models_have_ten_minutes_unless_all_calls_have_more() -> None:
    assert policy.default_timeout("/coxswain.models.v1.InferenceService/Complete", 30) == 600
    assert policy.default_timeout("/coxswain.models.v1.InferenceService/StreamComplete", 900) == 900
