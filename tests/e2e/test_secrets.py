"""Keys and credentials stay where they are: in no log, event, error, output, row or file. On both deployments."""

from coxswain.orchestrator.v1.execution_pb2 import ExecutionState
from tests.e2e.support import ALICE, Scene, finish, get, outputs
from tests.support.installation import Caller, Installation
from tests.support.llm_script import Fault


def test_no_credential_is_told_or_stored(
    scene: Scene, alice: Caller, installation: Installation, model_environment: dict[str, str]
) -> None:
    key = model_environment["OPENAI_API_KEY"]
    scene.answers("good", "A result.")
    scene.answers("bad", fault=Fault(status=401, message=f"Incorrect API key provided: {key}"))
    alice.orchestrator.run(scene.crew("good"))

    failed = alice.orchestrator.start(scene.crew("bad"))
    events = finish(alice.orchestrator, failed)

    ended = get(alice.orchestrator, failed)
    assert ended.state == ExecutionState.EXECUTION_STATE_FAILED
    assert ended.error.task_name == "bad"
    assert scene.calls("bad")[0].bearer == key, "the key went where it belongs"
    told = "\n".join(map(str, [ended, *events, *outputs(alice.orchestrator, failed)]))
    files = [file.read_bytes() for file in installation.data_dir.rglob("*") if file.is_file()]
    for secret in (key, ALICE):
        assert secret not in told
        assert secret not in installation.logs
        for row in installation.everything_stored():
            assert secret not in row
            assert secret.encode().hex() not in row
        assert not any(secret.encode() in content for content in files)


def test_files_are_their_owners_alone(installation: Installation) -> None:
    readable = [
        f"{path.relative_to(installation.data_dir)} {path.stat().st_mode & 0o777:o}"
        for path in installation.data_dir.rglob("*")
        if path.stat().st_mode & 0o077
    ]
    assert readable == []
