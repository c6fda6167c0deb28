"""The examples of a backend serve their own users: tokens, live progress over a reconnection, approval, errors."""

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.child_process import ChildProcess, free_port, scrubbed_environment
from tests.support.suite_process import SuiteProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = "The ferry leaves at nine. It carries cars and forty passengers. It returns at noon."
ALICE = {"Authorization": "Bearer dev:alice:of-backend=editor"}
BOB = {"Authorization": "Bearer dev:bob:of-others=editor"}


@pytest.fixture(scope="module", params=["python", "typescript"])
def backend(
    request: pytest.FixtureRequest, suite: SuiteProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    port = free_port()
    environment = scrubbed_environment(
        tmp_path_factory.mktemp("backend"), COXSWAIN_ADDRESS=suite.address("orchestrator"), PORT=str(port)
    )
    if request.param == "python":
        app = ["-m", "uvicorn", "app:app", "--app-dir", str(EXAMPLES / "backend_python"), "--port", str(port)]
        process = ChildProcess("backend", app, environment)
    else:
        server = compiled_server(request.getfixturevalue("typescript_client"))
        process = ChildProcess("backend", [str(server)], environment, program="node")
    with process:
        process.wait_for_line("Uvicorn running" if request.param == "python" else "serving")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield client


def compiled_server(typescript_client: Path) -> Path:
    """Compile the example within the client's package, whose modules it finds there."""
    directory = typescript_client / "examples" / "backend_typescript"
    shutil.copytree(
        EXAMPLES / "backend_typescript",
        directory,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("package*.json", "node_modules"),
    )
    compiler = typescript_client / "node_modules" / ".bin" / "tsc"
    done = subprocess.run([compiler, "-p", directory], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout
    return directory / "server.js"


def events(backend: httpx.Client, letter: str, until: str, **headers: str) -> list[tuple[int, str]]:
    """Return the events of a stream that is left after one of a kind."""
    seen: list[tuple[int, str]] = []
    with backend.stream("GET", f"/letters/{letter}/events", headers={**ALICE, **headers}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            fields[name] = value
            if not line:
                seen.append((int(fields["id"]), fields["event"]))
                if fields["event"] == until:
                    break
    return seen


def state(backend: httpx.Client, letter: str) -> dict[str, Any]:
    found: dict[str, Any] = backend.get(f"/letters/{letter}", headers=ALICE).raise_for_status().json()
    return found


def test_a_user_starts_follows_and_approves(suite: SuiteProcess, backend: httpx.Client) -> None:
    suite.restore_workers()
    post = {"json": {"text": TEXT}, "headers": {**ALICE, "Idempotency-Key": uuid.uuid4().hex}}
    first, again = (backend.post("/letters", **post) for _ in range(2))  # type: ignore[arg-type]
    assert first.status_code == 202
    letter = first.json()["id"]
    assert again.json()["id"] == letter, "sent twice, started once"

    before = events(backend, letter, "question_raised")
    [question] = state(backend, letter)["open_question_ids"]
    refused = backend.post(f"/questions/{question}", json={"accept": True}, headers=BOB)
    assert refused.status_code == 404, "other users' groups see nothing of it"
    backend.post(f"/questions/{question}", json={"accept": True, "text": "At nine."}, headers=ALICE).raise_for_status()
    after = events(backend, letter, "execution_succeeded", **{"Last-Event-ID": str(before[-1][0])})

    sequences = [sequence for sequence, _ in before + after]
    assert sequences == list(range(1, len(sequences) + 1))
    assert state(backend, letter)["result"]["text"] == "At nine."


def test_a_user_cancels(suite: SuiteProcess, backend: httpx.Client) -> None:
    letter = backend.post("/letters", json={"text": TEXT}, headers=ALICE).json()["id"]
    backend.delete(f"/letters/{letter}", headers=ALICE).raise_for_status()
    assert events(backend, letter, "execution_cancelled")[-1][1] == "execution_cancelled"


def test_refusals_are_told_in_the_words_of_the_web(backend: httpx.Client) -> None:
    stranger = backend.post("/letters", json={"text": TEXT}, headers={"Authorization": "Bearer nonsense"})
    assert stranger.status_code == 401
    for nobody in ({}, {"Authorization": ""}):
        for method, path in (("POST", "/letters"), ("GET", "/letters/x"), ("POST", "/questions/x")):
            assert backend.request(method, path, headers=nobody).status_code == 401
    missing = backend.get("/letters/nobody/events", headers=ALICE)
    assert (missing.status_code, missing.json()["reason"]) == (404, "NOT_FOUND")
    wrong = backend.post("/questions/x", json={"accept": False, "text": "x" * 70_000}, headers=ALICE)
    assert (wrong.status_code, list(wrong.json()["fields"])) == (422, ["decline.reason"])
