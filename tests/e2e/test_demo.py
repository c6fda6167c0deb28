"""The newcomer's one command, and that it calls nobody."""

import json
from pathlib import Path

from tests.support.child_process import ROOT, ChildProcess, free_port, scrubbed_environment

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
    assert "offline/extract" in process.output, "it says which model it uses"
    assert not notes.exists() or not notes.read_text(), "no Python code tried to reach another machine"
    if counters.exists():
        packets = json.loads(counters.read_text())
        assert packets == dict.fromkeys(packets, 0), "nor did anything else"
