"""The exchange in docs/a2a.md works between two installations, and commands print what the page shows."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from coxswain.client import Client
from coxswain.client.cli.app import app
from coxswain.orchestrator.v1.execution_pb2 import GetExecutionRequest, ListExecutionsRequest
from tests.e2e.support import SUCCEEDED
from tests.e2e.test_files_and_questions_pages import blocks, id_in, plain, shown
from tests.support.installation import wait_until
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply, ToolCall
from tests.support.suite_process import SuiteProcess


@pytest.fixture
def partner(tmp_path: Path, model_environment: dict[str, str]) -> Iterator[SuiteProcess]:
    """An installation that has nothing in common with `suite`."""
    with SuiteProcess(tmp_path / "partner" / "data", workers=1, environment=model_environment).running() as running:
        yield running


def test_a_crew_has_the_agent_of_another_installation_work_as_the_page_says(
    suite: SuiteProcess, partner: SuiteProcess, llm: LlmEmulator, tmp_path: Path
) -> None:
    def coxswain(*arguments: str, at: SuiteProcess = suite) -> str:
        result = CliRunner().invoke(app, ["--address", at.address("orchestrator"), *arguments])
        assert result.exit_code == 0, f"{arguments}: {result.output}"
        return str(result.output)

    llm.on(Reply(text="A brief about trains."), route="chat", contains="Write a brief about trains.")
    llm.on(Reply(text="Here it is."), route="chat", contains="Have the partner write", last_role="tool")
    asking = ToolCall(name="partner_brief", arguments={"message": "trains"})
    llm.on(Reply(tool_calls=[asking]), route="chat", contains="Have the partner write")
    files = {}
    for block in blocks("a2a.md", "yaml"):
        crew = yaml.safe_load(block)
        if "agents" in crew:
            files[crew["name"]] = tmp_path / f"{crew['name']}.yaml"
            files[crew["name"]].write_text(block)
    suite.restore_workers()
    printed = plain(coxswain("apply", str(files["brief"]), at=partner))
    assert printed == shown("a2a.md", "coxswain apply brief.yaml")
    address = partner.address("orchestrator")
    printed = plain(coxswain("tool", "source", "create", "partner", "--a2a", address, "--plaintext"))
    assert printed == shown("a2a.md", "coxswain tool source create partner --a2a")
    assert plain(coxswain("apply", str(files["desk"]))) == shown("a2a.md", "coxswain apply desk.yaml")
    with Client(suite.address("orchestrator")) as client:
        execution = client.start("desk", {"topic": "trains"})
        wait_until(lambda: "answer one with" in coxswain("questions", "--crew", "desk"), "desk asks a person")
        question = coxswain("questions", "--crew", "desk")
        assert _unzoned(plain(question)) == _unzoned(shown("a2a.md", "coxswain questions"))
        answered = plain(coxswain("answer", id_in(question), "--field", "approved=true"))
        assert answered == shown("a2a.md", "coxswain answer")
        list(client.watch(execution.id))
        ended = client.executions.GetExecution(GetExecutionRequest(id=execution.id)).execution
        assert ended.state == SUCCEEDED
    with Client(address) as client:
        (worked,) = client.executions.ListExecutions(ListExecutionsRequest()).executions
        assert (worked.crew_name, worked.state) == ("brief", SUCCEEDED)


def _unzoned(text: str) -> str:
    return re.sub(r" UTC| [A-Z]{3,4}$", "", text, flags=re.MULTILINE)
