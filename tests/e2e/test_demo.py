"""The newcomer's one command, and that it calls nobody."""

import json
from pathlib import Path

from tests.e2e.support import ALICE, Scene
from tests.support.child_process import ROOT, ChildProcess, free_port, scrubbed_environment
from tests.support.llm_script import Reply
from tests.support.suite_process import SuiteProcess

_BRIEF = "Ballast keeps ships upright, and its weight has to be stowed low."
_ISOLATED = Path(__file__).with_name("without_network.py")


def test_the_demo_runs_without_a_network(tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    counters = tmp_path / "counters.json"
    environment = scrubbed_environment(
        tmp_path,
        COXSWAIN_DATA_DIR=str(tmp_path / "data"),
        COXSWAIN_PORT=str(free_port()),
        PYTHONPATH=str(ROOT / "tests" / "support" / "witness"),
        WITNESS_FILE=str(notes),
    )
    demo = [str(_ISOLATED), str(counters), "examples/brief/demo.py"]

    with ChildProcess("demo", demo, environment) as process:
        code = process.wait()

    assert code == 0, process.tail
    assert "model: offline/extract" in process.output
    assert "the brief, after" in process.output
    assert "found, score" in process.output, "the brief is found again in other words"
    assert "the suite has stopped" in process.output
    assert not notes.exists() or not notes.read_text(), "no Python code tried to reach another machine"
    if counters.exists():
        packets = json.loads(counters.read_text())
        assert packets == dict.fromkeys(packets, 0), "nor did anything else"


def test_the_demo_uses_the_model_of_the_environment(
    suite: SuiteProcess, scene: Scene, model_environment: dict[str, str], tmp_path: Path
) -> None:
    scene.llm.on(Reply(text=_BRIEF), route="chat")
    text = tmp_path / "text.txt"
    text.write_text("Ships carry ballast. Sailors stow heavy things deep in the hold, so that no wave turns them over.")
    environment = scrubbed_environment(
        tmp_path, COXSWAIN_ADDRESS=suite.address("orchestrator"), COXSWAIN_TOKEN=ALICE, **model_environment
    )

    with ChildProcess("demo", ["examples/brief/demo.py", str(text)], environment) as process:
        code = process.wait()

    assert code == 0, process.tail
    assert "model: openai/gpt-4o-mini (OPENAI_API_KEY and OPENAI_BASE_URL in the environment)" in process.output
    assert process.output.count(_BRIEF) >= 2, "shown as the result and found again"
    assert {call.model for call in scene.llm.calls_where(route="chat")} == {"gpt-4o-mini"}


def test_the_demo_finds_a_brief_without_a_single_long_word(suite: SuiteProcess, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("He saw it at 6.")
    environment = scrubbed_environment(
        tmp_path, COXSWAIN_ADDRESS=suite.address("orchestrator"), COXSWAIN_TOKEN="dev:terse:terse=editor"
    )

    with ChildProcess("demo", ["examples/brief/demo.py", str(text)], environment) as process:
        code = process.wait()

    assert code == 0, process.tail
    assert "found, score" in process.output


def test_the_demo_takes_any_model_of_a_local_server(suite: SuiteProcess, scene: Scene, tmp_path: Path) -> None:
    scene.llm.on(Reply(text=_BRIEF), route="chat", model="phi4")

    code, output = _demo_on("ollama/phi4", suite, tmp_path)

    assert code == 0, output
    assert "ollama/phi4 was not configured: added to your group" in output
    assert "found, score" in output
    assert {call.path for call in scene.llm.calls_where(model="phi4")} == {"/ollama/v1/chat/completions"}


def test_the_demo_does_not_wait_for_a_local_server_that_is_away(suite: SuiteProcess, tmp_path: Path) -> None:
    code, output = _demo_on("vllm/Qwen/Qwen3-8B", suite, tmp_path)

    assert code == 1
    assert "did not answer" in output
    assert "is vLLM running (`vllm serve`)" in output


def _demo_on(model: str, suite: SuiteProcess, tmp_path: Path) -> tuple[int, str]:
    text = tmp_path / "text.txt"
    text.write_text("Ships carry ballast. Sailors stow heavy things deep in the hold, so that no wave turns them over.")
    environment = scrubbed_environment(
        tmp_path,
        COXSWAIN_ADDRESS=suite.address("orchestrator"),
        COXSWAIN_TOKEN="dev:local:local=admin",
        COXSWAIN_DEMO_MODEL=model,
    )
    with ChildProcess("demo", ["examples/brief/demo.py", str(text)], environment) as process:
        return process.wait(), process.output
