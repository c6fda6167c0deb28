"""Any method of the API from the command line: its JSON in and out, and errors with all that the server said."""

import json
from pathlib import Path

import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode
from typer.testing import Result

from coxswain.client.cli.call import _public_methods
from coxswain.orchestrator.v1 import execution_pb2 as pb
from tests.integration.client.command_line import invoke
from tests.integration.client.installation import Installation, Server, reason, refuse
from tests.support.descriptors import product_services


def call(server: Server, *arguments: str, stdin: str | None = None) -> Result:
    return invoke(server.address, "call", *arguments, stdin=stdin)


def test_a_method_takes_and_gives_the_json_of_the_api(
    server: Server, installation: Installation, tmp_path: Path
) -> None:
    request = {"crewId": "c", "requestId": "once", "inputs": {"text": "x\x1b[2J\u202e"}}
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request))
    for method, given, stdin in (
        ("coxswain.orchestrator.v1.ExecutionService/StartExecution", json.dumps(request), None),
        ("ExecutionService/StartExecution", f"@{file}", None),
        ("StartExecution", "-", json.dumps(request)),
    ):
        done = call(server, method, given, stdin=stdin)
        assert (done.exit_code, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {"execution": {"id": "e0", "crewId": "c"}}
    assert [sent.inputs["text"].string_value for sent in installation.requests] == ["x\x1b[2J\u202e"] * 3
    assert {sent["authorization"] for sent in installation.metadata} == {"Bearer dev:alice:sales=admin"}


def test_answers_of_a_stream_are_lines(server: Server, installation: Installation) -> None:
    installation.emit(
        pb.ExecutionEvent(sequence=1, execution_started=pb.ExecutionStarted()),
        pb.ExecutionEvent(sequence=2, execution_cancelled=pb.ExecutionCancelled()),
    )
    lines = call(server, "WatchExecution", '{"id": "e"}').stdout.splitlines()
    assert [json.loads(line)["event"]["sequence"] for line in lines] == ["1", "2"]


def test_an_error_is_json_with_all_details(server: Server, installation: Installation) -> None:
    violations = [error_details_pb2.BadRequest.FieldViolation(field="id", description="value is required")]
    installation.faults["GetCrew"] = [
        lambda context: refuse(
            context,
            StatusCode.INVALID_ARGUMENT,
            "id: value is required",
            reason("INVALID_ARGUMENT"),
            error_details_pb2.BadRequest(field_violations=violations),
        )
    ]
    refused = call(server, "GetCrew")
    assert (refused.exit_code, refused.stdout) == (13, "")
    assert json.loads(refused.stderr) == {
        "code": "INVALID_ARGUMENT",
        "message": "id: value is required",
        "reason": "INVALID_ARGUMENT",
        "fields": [{"field": "id", "description": "value is required"}],
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--list"),
        (["GetCrw"], "did you mean 'coxswain.orchestrator.v1.CrewService/GetCrew'?"),
        (["GetCrew", "{"], "not a GetCrewRequest"),
        (["GetCrew", '{"crew": 1}'], "no field named"),
        (["SaveDocument", '{"header": {}}\n{"headr": {}}'], "line 2"),
        (["SaveDocument", '{"headr": "\u2028"}'], "no field named"),
        (["GetCrew", ""], "{} is an empty request"),
    ],
)
def test_what_cannot_be_called_is_said_before_anything_is_sent(arguments: list[str], says: str) -> None:
    refused = invoke("127.0.0.1:1", "call", *arguments)
    assert refused.exit_code == 2
    assert says in " ".join(refused.stderr.split())


def test_help_shows_each_argument_in_one_pair_of_brackets() -> None:
    assert "[METHOD] [JSON]" in invoke("127.0.0.1:1", "call", "--help").stdout


def test_every_public_method_can_be_called() -> None:
    listed = json.loads(invoke("127.0.0.1:1", "call", "--list", "--json").stdout)
    assert {one["method"] for one in listed} == set(_public_methods())
    assert {"method": "coxswain.auth.v1.GroupService/CreateGroup", "role": "platform_admin"} in listed
    every = {f"{service.full_name}/{method.name}" for service in product_services() for method in service.methods}
    assert set(_public_methods()) < every
