"""The examples of docs/files.md and docs/questions.md work, and commands print what the pages show."""

import asyncio
import contextlib
import io
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from coxswain.client import AsyncClient, Client
from coxswain.client.cli.app import app
from coxswain.orchestrator.v1.execution_pb2 import GetExecutionRequest
from coxswain.orchestrator.v1.question_state_pb2 import QuestionState
from tests.e2e.support import MODEL, SUCCEEDED
from tests.support.installation import wait_until
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply, ToolCall
from tests.support.suite_process import SuiteProcess

DOCS = Path(__file__).parents[2] / "docs"
AGENT = {"role": "Editor", "goal": "Write what is asked for"}
Command = Callable[..., str]


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shown(page: str, command: str) -> str:
    """Return what a page shows that a command prints, with what differs each time left out."""
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE):
            first, _, output = part.partition("\n")
            if first.startswith(command):
                return plain(output)
    raise AssertionError(f"{page} shows no {command}")


def plain(text: str) -> str:
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|01a2\.\.\.[0-9a-f]{2}", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "TIME", text)
    return "\n".join(re.sub(r" +", " ", line).rstrip() for line in text.strip().splitlines())


@pytest.fixture
def coxswain(suite: SuiteProcess) -> Command:
    suite.restore_workers()

    def run(*arguments: str, exit_code: int = 0) -> str:
        result = CliRunner().invoke(app, ["--address", suite.address("orchestrator"), *arguments])
        assert result.exit_code == exit_code, f"{arguments}: {result.output}"
        return str(result.output)

    return run


def applied(coxswain: Command, directory: Path, **crew: Any) -> None:
    file = directory / f"{crew['name']}.yaml"
    file.write_text(yaml.safe_dump({"model": MODEL} | crew))
    coxswain("apply", str(file))


def asked(coxswain: Command, crew: str) -> str:
    """Return what `questions` prints once the crew has asked."""
    wait_until(lambda: "answer one with" in coxswain("questions", "--crew", crew), f"{crew} asks a person")
    return coxswain("questions", "--crew", crew)


def id_in(text: str) -> str:
    found = re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", text)
    assert found, text
    return found[0]


def test_files_are_made_listed_and_downloaded_as_the_page_says(
    suite: SuiteProcess, llm: LlmEmulator, coxswain: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, agents = map(yaml.safe_load, blocks("files.md", "yaml"))
    kept = {"description": "Keep the ledger", "expected_output": "Done", "agent": "clerk"}
    llm.on(Reply(text="b" * 1284), route="chat", contains="Write a brief about sea")
    llm.on(Reply(text="kept"), route="chat", contains="Keep the ledger", last_role="tool", nth=2)
    llm.on(Reply(tool_calls=[ToolCall(name="file_list")]), route="chat", contains="Keep the ledger", last_role="tool")
    note = ToolCall(name="file_write", arguments={"name": "ledger/a.txt", "content": "one"})
    llm.on(Reply(tool_calls=[note]), route="chat", contains="Keep the ledger")
    applied(
        coxswain,
        tmp_path,
        name="press",
        agents={"editor": AGENT} | agents["agents"],
        tasks=tasks["tasks"] | {"keep": kept},
    )
    with Client(suite.address("orchestrator")) as client:
        execution = client.start("press", {"topic": "sea"})
        list(client.watch(execution.id))
        execution = client.executions.GetExecution(GetExecutionRequest(id=execution.id)).execution
        assert execution.state == SUCCEEDED
        listed = plain(coxswain("artifact", "list", execution.id, "--task", "edit"))
        assert listed.replace(" UTC", "") == shown("files.md", "coxswain artifact list").replace(" UTC", "")
        assert "ledger/a.txt" in coxswain("artifact", "list", execution.id)
        monkeypatch.chdir(tmp_path)
        [snippet] = blocks("files.md", "python")
        exec(snippet, {"client": client, "execution": execution})
        assert (tmp_path / "sea.md").read_bytes() == b"b" * 1284
    coxswain("artifact", "get", execution.id, "briefs/sea.md", exit_code=2)
    (tmp_path / "sea.md").unlink()
    got = plain(coxswain("artifact", "get", execution.id, "briefs/sea.md"))
    assert got == shown("files.md", "coxswain artifact get")


def test_questions_are_found_and_answered_as_the_page_says(
    suite: SuiteProcess, llm: LlmEmulator, coxswain: Command, tmp_path: Path
) -> None:
    question = "Which hotel do you like better?"
    ask = ToolCall(name="ask_person", arguments={"question": question, "choices": ["Bryggen", "Torget"]})
    llm.on(Reply(text="Booked."), route="chat", contains="Book a hotel", last_role="tool")
    llm.on(Reply(tool_calls=[ask]), route="chat", contains="Book a hotel")
    book = {"description": "Book a hotel", "expected_output": "Its name", "agent": "clerk"}
    applied(coxswain, tmp_path, name="trip", agents={"clerk": AGENT | {"tools": ["ask_person"]}}, tasks={"book": book})
    coxswain("run", "trip", "--detach")
    printed = asked(coxswain, "trip")
    assert plain(printed) == shown("questions.md", "coxswain questions")
    answered = plain(coxswain("answer", id_in(printed), "--answer", "Bryggen"))
    assert answered == shown("questions.md", "coxswain answer")

    [tasks] = map(yaml.safe_load, blocks("questions.md", "yaml"))
    llm.on(Reply(text="A better brief"), route="chat", contains="name the sources")
    llm.on(Reply(text="A brief"), route="chat", contains="Write a brief about sand")
    applied(coxswain, tmp_path, name="checked", agents={"editor": AGENT}, tasks=tasks["tasks"])
    with Client(suite.address("orchestrator")) as client:
        execution = client.start("checked", {"topic": "sand"})
        printed = asked(coxswain, "checked")
        assert "Is every figure in it correct?" in printed
        assert "then accept default" in printed
        assert "A brief" in watched(suite.address("orchestrator"))
        coxswain("answer", id_in(printed), "--refuse", "name the sources")
        wait_until(lambda: "A better brief" in coxswain("questions", "--crew", "checked"), "it is done again")
        (tmp_path / "edited.md").write_text("The best brief")
        answered = coxswain("answer", id_in(asked(coxswain, "checked")), "--edit", str(tmp_path / "edited.md"))
        assert answered.startswith("accepted, edited: execution")
        list(client.watch(execution.id))
        assert client.executions.GetExecution(GetExecutionRequest(id=execution.id)).execution.state == SUCCEEDED


def watched(address: str) -> str:
    """Return what the page's loop over open questions prints first."""
    [snippet] = blocks("questions.md", "python")
    printed = io.StringIO()
    names: dict[str, Any] = {"QuestionState": QuestionState}
    exec(f"async def run(client):\n{textwrap.indent(snippet, '    ')}            return\n", names)

    async def run() -> None:
        async with AsyncClient(address) as client, asyncio.timeout(60):
            await names["run"](client)

    with contextlib.redirect_stdout(printed):
        asyncio.run(run())
    return printed.getvalue()
