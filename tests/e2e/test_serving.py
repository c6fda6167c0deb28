"""What the processes are made of and how they start, refuse to start and stop."""

import json
import re
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sqlalchemy import select

from coxswain.client import Client, Tls
from coxswain.memory.v1.memory_pb2 import ListNamespacesRequest
from coxswain.models.v1 import inference_pb2
from coxswain.models.v1.model_pb2 import ListModelsRequest
from coxswain.orchestrator.v1.crew_pb2 import ListCrewsRequest
from services.models.tables import usage_records
from tests.e2e.conftest import WORKER_MODULE
from tests.e2e.support import ALICE, MODEL, SUCCEEDED, Scene, get, reading_crew
from tests.support.child_process import ChildProcess, run_python, scrubbed_environment
from tests.support.installation import SERVICES, Caller, Installation, wait_until
from tests.support.served_methods import served_methods
from tests.support.service_processes import ServiceProcesses
from tests.support.suite_process import SuiteProcess

# Seconds; the service gives itself ten to store what is left.
_LESS_THAN_STORING_MAY_TAKE = 3.0
_GRPC_SERVICES = (
    "coxswain.auth.v1.AuthService",
    "coxswain.memory.v1.MemoryService",
    "coxswain.models.v1.ModelService",
    "coxswain.orchestrator.v1.ExecutionService",
)


def test_serving_processes_load_neither_crewai_nor_litellm(
    scene: Scene, alice: Caller, installation: Installation, witness: dict[str, str]
) -> None:
    scene.answers("only", "Done.")
    assert alice.orchestrator.run(scene.crew("only")).state == SUCCEEDED

    notes = [json.loads(line) for line in Path(witness["WITNESS_FILE"]).read_text().splitlines()]

    imported = {(note["process"], note["detail"]) for note in notes if note["what"] == "import"}
    assert {module for _, module in imported} == {WORKER_MODULE}, "the witness sees hosts, which never load crewai"
    assert all(process.startswith("-m services.orchestrator.worker") for process, _ in imported)


def test_each_service_says_that_it_serves(installation: Installation, alice: Caller) -> None:
    clients = {service: getattr(alice, service) for service in SERVICES}

    for name in _GRPC_SERVICES:
        assert clients[name.split(".")[1]].healthy(name)
    assert all(client.healthy() for client in clients.values())


def test_one_client_calls_services_at_addresses_of_their_own(installation: Installation) -> None:
    addresses = {service: installation.address(service) for service in SERVICES}
    tls = Tls(root_certificates=installation.authority.read_bytes()) if installation.authority is not None else False
    with Client(addresses, token=ALICE, tls=tls) as client:
        assert client.whoami().principal.group_id == "sales"
        assert client.models.ListModels(ListModelsRequest()).models
        client.memory.ListNamespaces(ListNamespacesRequest())
        client.crews.ListCrews(ListCrewsRequest())
        assert all(client.healthy(name) for name in ("", *_GRPC_SERVICES))


def test_a_second_suite_on_the_same_data_is_refused(suite: SuiteProcess) -> None:
    with suite.launch() as second:
        assert second.wait() not in {0, None}

    assert str(suite.data_dir) in second.output
    assert "in use by another suite" in second.output
    assert f"127.0.0.1:{suite.port}" in second.output
    assert "Traceback" not in second.output


def test_a_second_suite_on_the_same_port_is_refused(suite: SuiteProcess, tmp_path: Path) -> None:
    environment = suite.environment() | {"COXSWAIN_DATA_DIR": str(tmp_path / "other"), "COXSWAIN_WORKERS": "0"}
    with ChildProcess("second suite", ["-m", "services.suite"], environment) as second:
        assert second.wait() not in {0, None}

    assert f"127.0.0.1:{suite.port}" in second.output
    assert "COXSWAIN_PORT" in second.output
    assert "serving on" not in second.output
    assert "Traceback" not in second.output


@pytest.mark.parametrize("module", ["suite", *SERVICES])
def test_development_identities_are_refused_where_others_could_connect(module: str, tmp_path: Path) -> None:
    environment = scrubbed_environment(
        tmp_path, COXSWAIN_HOST="0.0.0.0", COXSWAIN_PORT="0", COXSWAIN_DATA_DIR=str(tmp_path / "data")
    )

    code, output = run_python(["-m", f"services.{module}"], environment=environment)

    assert code != 0
    assert "development identities are refused on 0.0.0.0" in output
    assert "COXSWAIN_IDENTITY_MODE" in output
    assert "Traceback" not in output


def test_the_suite_brings_its_own_postgresql_and_finds_it_again_after_it_was_killed() -> None:
    # Not below pytest's directory, which root's PostgreSQL (another user) may be kept from.
    with (
        tempfile.TemporaryDirectory(prefix="coxswain-suite-") as directory,
        SuiteProcess(Path(directory) / "data", workers=1, arguments=("--db", "postgres")).running() as suite,
        suite.caller(ALICE) as alice,
    ):
        text = "Ballast keeps ships upright. It is heavy."
        execution = alice.orchestrator.run(reading_crew(), {"text": text})
        assert execution.state == SUCCEEDED
        assert execution.result.text
        assert not (suite.data_dir / "orchestrator.db").exists()

        suite.kill()
        process = suite.start()
        assert get(alice.orchestrator, execution) == execution
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert not list(suite.data_dir.rglob("postmaster.pid")), "the database server was stopped as well"


def test_what_model_calls_used_is_stored_when_their_process_is_told_to_stop(
    scene: Scene, service_processes: ServiceProcesses
) -> None:
    scene.answers("direct", "In time.", hang=True)
    completion = inference_pb2.Completion(model=MODEL, labels={"scene": scene.mark})
    completion.messages.add(role=inference_pb2.MESSAGE_ROLE_USER).content.add(text=scene.word("direct"))
    request = inference_pb2.CompleteRequest(completion=completion)
    process = service_processes.replicate("models")
    [port] = re.findall(r"serving on \S*?:(\d+)", process.output)

    with service_processes.client_at(f"127.0.0.1:{port}", ALICE) as client, ThreadPoolExecutor(6) as threads:
        calls = [threads.submit(client.inference.Complete, request) for _ in range(6)]
        wait_until(lambda: len(scene.calls("direct", hanging=True)) == 6, "all calls are under way")
        process.signal(signal.SIGTERM)
        # While nothing can be stored, it does not end.
        with service_processes.locked("models", usage_records):
            scene.llm.release()
            answers = [call.result(60) for call in calls]
            with pytest.raises(psutil.TimeoutExpired):
                psutil.Process(process.pid).wait(_LESS_THAN_STORING_MAY_TAKE)

    assert process.wait() == 0
    stored = service_processes.rows("models", select(usage_records).where(usage_records.c.subject == "dev|alice"))
    tokens = [row["output_tokens"] for row in stored if row["labels"] == {"scene": scene.mark}]
    assert tokens == [answer.usage.output_tokens for answer in answers]
    assert "usage_lost" not in process.output


def test_reflection_shows_the_comments(suite: SuiteProcess) -> None:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="coxswain.orchestrator.v1.ExecutionService")
    with grpc.insecure_channel(suite.address("orchestrator")) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=30)

    files = [FileDescriptorProto.FromString(raw) for raw in answer.file_descriptor_response.file_descriptor_proto]
    shown = next(file for file in files if file.name.endswith("execution_service.proto"))
    comments = [location.leading_comments for location in shown.source_code_info.location]
    assert any("StartExecution stores an execution" in comment for comment in comments)


def test_what_tests_take_for_all_methods_is_what_a_suite_serves(suite: SuiteProcess) -> None:
    """The fuzz, and tests of every method, would miss a service that their list lacks."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(suite.address("orchestrator")) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=30)

    served = {service.name for service in answer.list_services_response.service}
    ours = {served.method.containing_service.full_name for served in served_methods()}
    assert {name for name in served if not name.startswith("grpc.")} == ours
