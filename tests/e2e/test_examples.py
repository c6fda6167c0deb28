"""The examples do what their pages say, as the programs and commands that a reader runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.child_process import scrubbed_environment
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply, ToolCall
from tests.support.suite_process import SuiteProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = "The ferry leaves at nine. It carries cars and forty passengers. It returns at noon."


class Reader:
    """Somebody who runs the examples, in a group of their own."""

    def __init__(self, suite: SuiteProcess, home: Path) -> None:
        self._environment = scrubbed_environment(
            home,
            COXSWAIN_ADDRESS=suite.address("orchestrator"),
            COXSWAIN_TOKEN="dev:ann:of-examples=editor",
        )
        self.text_file = home / "text.txt"
        self.text_file.write_text(TEXT, encoding="utf-8")

    def run(self, *command: str, said: str = "") -> str:
        """Run `python <command>` to its end; return what it printed."""
        ran = subprocess.run(
            [sys.executable, *command],
            cwd=EXAMPLES,
            env=self._environment,
            input=said,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stdout
        return ran.stdout

    def coxswain(self, *arguments: str) -> str:
        """Run a command of the command line."""
        return self.run("-m", "coxswain.client", *arguments)


@pytest.fixture
def reader(suite: SuiteProcess, tmp_path: Path) -> Reader:
    suite.restore_workers()
    return Reader(suite, tmp_path)


def test_a_person_sends_a_letter_back_and_replaces_the_next(reader: Reader) -> None:
    printed = reader.run("human_approval/approve.py", str(reader.text_file), said="say when it returns\n= At noon.\n")
    assert re.findall(r"May this letter be sent\? \(attempt (\d+)\)", printed) == ["1", "2"]
    assert printed.splitlines()[-1].endswith("At noon.")


def test_an_order_arrives_as_an_object_though_the_first_answer_breaks_the_schema(
    reader: Reader, llm: LlmEmulator
) -> None:
    order = {"customer": "Ann", "lines": [{"article": "lamp", "quantity": 0}], "urgent": True}
    llm.on(Reply(text=json.dumps(order)), contains="Two lamps, today please.", times=1)
    order["lines"] = [{"article": "lamp", "quantity": 2}]
    llm.on(Reply(text=json.dumps(order)), contains="Two lamps, today please.")
    assert json.loads(reader.run("structured_output/orders.py", said="Two lamps, today please. Ann")) == order


def test_a_manager_has_the_navigator_calculate(reader: Reader, llm: LlmEmulator) -> None:
    part = {"task": "How long are 212 miles at 8 knots?", "context": "none", "coworker": "Navigator"}
    delegation = ToolCall(name="delegate_work_to_coworker", arguments=part)
    llm.on(Reply(tool_calls=[delegation]), offers_tool="delegate_work_to_coworker", last_role="user")
    llm.on(Reply(text="26.5 hours, 27 litres, 7 loaves."), offers_tool="delegate_work_to_coworker", last_role="tool")
    calculation = ToolCall(name="calculator", arguments={"expression": "212/8"})
    llm.on(Reply(tool_calls=[calculation]), offers_tool="calculator", last_role="user")
    llm.on(Reply(text="It takes 26.5 hours."), contains="26.5", last_role="tool")
    reader.coxswain("apply", "hierarchical/crew.yaml")
    printed = reader.coxswain("run", "voyage", "--input", "distance=212", "--input", "speed=8")
    assert "26.5 hours, 27 litres, 7 loaves." in printed
    assert "calculator" in printed


def test_one_schedule_is_there_however_often_it_is_ensured(reader: Reader) -> None:
    for _ in range(2):
        printed = reader.run("schedules/morning.py", str(reader.text_file)).splitlines()
        assert "ferry" in printed[0]
        assert re.fullmatch(r"next: [\d-]+ 0[45]:30 UTC", printed[-1]), "half past six in Zurich"
    listed = json.loads(reader.coxswain("schedule", "list", "--json"))
    assert [schedule["name"] for schedule in listed] == ["morning-report"]
    reader.coxswain("schedule", "delete", "morning-report", "--yes")


def test_notes_are_found_changed_and_removed(reader: Reader) -> None:
    assert reader.run("memory/notes.py").splitlines() == [
        "The entrance of the harbour is four metres deep at low tide.",
        "Berth 12 is reserved for the schooner of order 4711.",
        "The harbour master's office opens at eight, on Sundays at ten.",
        "The entrance is five metres deep since it was dredged.",
        "somebody was faster: REVISION_MISMATCH",
        "3 removed",
    ]


def test_a_crewai_project_is_applied_and_runs(reader: Reader) -> None:
    [line] = [line for line in reader.coxswain("apply", "crewai_project").splitlines() if "step_callback" in line]
    assert line.split()[0] == "src/letters/crew.py"
    assert "ferry" in reader.coxswain("run", "letters", "--input", f"notes={TEXT}")
