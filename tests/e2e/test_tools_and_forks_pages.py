"""The examples of docs/tools.md and docs/resume-and-fork.md work, and commands print what the pages show."""

import re
import shlex
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from coxswain.client import Client
from coxswain.client.cli.app import app
from coxswain.orchestrator.v1.execution_pb2 import (
    Execution,
    GetExecutionRequest,
    ListExecutionsRequest,
)
from tests.e2e.support import MODEL, SUCCEEDED, outputs
from tests.e2e.test_files_and_questions_pages import AGENT, Command, asked, blocks, id_in, plain, shown
from tests.support.child_process import ROOT, WAIT_SECONDS, free_port
from tests.support.installation import wait_until
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Fault, Reply, ToolCall
from tests.support.suite_process import SuiteProcess

EXAMPLE = ROOT / "examples" / "mcp_server"
_PORT = "8700"


@pytest.fixture
def token() -> str:
    """An admin of a group of the test's own: nothing is left to others."""
    return f"dev:tina:pages-{uuid.uuid4().hex[:8]}=admin"


@pytest.fixture
def coxswain(suite: SuiteProcess, token: str) -> Command:
    suite.restore_workers()

    def run(*arguments: str, exit_code: int = 0, typed: str | None = None) -> str:
        line = ["--address", suite.address("orchestrator"), "--token", token, *arguments]
        result = CliRunner().invoke(app, line, input=typed)
        assert result.exit_code == exit_code, f"{arguments}: {result.output}"
        return str(result.output)

    return run


@pytest.fixture
def client(suite: SuiteProcess, token: str) -> Iterator[Client]:
    with Client(suite.address("orchestrator"), token=token) as client:
        yield client


@pytest.fixture
def server_port() -> Iterator[str]:
    """The port of the example's MCP server."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(EXAMPLE / "server.py"), "--port", str(port)])
    try:
        wait_until(lambda: _listens(port), "the example's server listens")
        yield str(port)
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def newest(client: Client) -> Execution:
    return client.executions.ListExecutions(ListExecutionsRequest(page_size=1)).executions[0]


def ended(client: Client, execution_id: str) -> Execution:
    list(client.watch(execution_id))
    return client.executions.GetExecution(GetExecutionRequest(id=execution_id)).execution


def test_a_crew_calls_a_tool_as_the_page_says(
    server_port: str, coxswain: Command, client: Client, llm: LlmEmulator, tmp_path: Path
) -> None:
    about = {"route": "chat", "contains": "Look up invoice 4711"}
    look = ToolCall(name="billing_get_invoice", arguments={"number": "4711"})
    pay = ToolCall(name="billing_pay", arguments={"number": "4711", "amount": 500})
    llm.on(
        Reply(text="Invoice 4711 is paid."), last_role="tool", last_contains="paid 120.0 for 4711, receipt 1", **about
    )
    llm.on(Reply(tool_calls=[pay]), last_role="tool", last_contains="120.0", **about)
    llm.on(Reply(tool_calls=[look]), **about)
    file = tmp_path / "billing.yaml"
    file.write_text((EXAMPLE / "billing.yaml").read_text().replace(_PORT, server_port))

    def as_shown(command: str, printed: str) -> None:
        printed = re.sub(r"fingerprint \w+", "fingerprint", printed.replace(server_port, _PORT))
        expected = re.sub(r"fingerprint \w+", "fingerprint", shown("tools.md", command))
        assert re.sub(r" UTC| [A-Z]{3,4}$", "", plain(printed), flags=re.MULTILINE) == expected.replace(" UTC", "")

    assert "tool gateway: serving" in coxswain("status")
    as_shown("coxswain tool source create -f", coxswain("tool", "source", "create", "-f", str(file)))
    as_shown("coxswain tool test", coxswain("tool", "test", "billing/get_invoice", '{"number": "4711"}'))
    as_shown("coxswain apply", coxswain("apply", str(EXAMPLE / "crew.yaml")))
    coxswain("run", "clerk", "--input", "number=4711", "--detach")
    question = asked(coxswain, "clerk")
    as_shown("coxswain questions", question)
    as_shown("coxswain answer", coxswain("answer", id_in(question), "--field", "amount=120"))
    assert ended(client, newest(client).id).state == SUCCEEDED
    updated = coxswain("tool", "source", "update", "billing", "--secret", "tools/billing", exit_code=1)
    assert shown("tools.md", "coxswain tool source update") in plain(updated)
    as_shown("coxswain secret put", coxswain("secret", "put", "tools/billing", typed="token"))
    coxswain("tool", "source", "check", "billing")


def test_executions_are_continued_as_the_page_says(
    coxswain: Command, client: Client, llm: LlmEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.txt").write_text("The lamp was lit at dusk.")
    off = Reply(fault=Fault(status=400, message="the model was switched off"))
    llm.on(off, route="chat", contains="Write the brief", model="gpt-4.1")

    def write_crew(editor: dict[str, Any]) -> None:
        tasks = {
            name: {"description": what, "expected_output": "Text", "agent": agent}
            for name, what, agent in (
                ("read", "Take notes of {text}", "reader"),
                ("edit", "Write the brief", "editor"),
                ("check", "Judge the brief", "editor"),
            )
        }
        crew = {
            "name": "brief",
            "model": "openai/gpt-4.1",
            "agents": {"reader": AGENT, "editor": editor},
            "tasks": tasks,
        }
        (tmp_path / "crew.yaml").write_text(yaml.safe_dump(crew, sort_keys=False))

    write_crew(AGENT)
    coxswain("apply", "crew.yaml")
    write_crew(AGENT | {"goal": "Write with care"})
    named: dict[str, Execution] = {}
    names = iter(["01a2...a1", "01a2...b2", "01a2...c3", "01a2...d4"])
    for block in blocks("resume-and-fork.md", "console"):
        for line in re.findall(r"^\$ coxswain (.*)$", block, re.MULTILINE):
            line = line.replace("anthropic/claude-sonnet-5-5", MODEL)
            arguments = [named[word].id if word in named else word for word in shlex.split(line)]
            printed = coxswain(*arguments, exit_code=1 if arguments[0] == "run" else 0)
            if arguments[0] in ("run", "resume", "fork"):
                named[next(names)] = newest(client)
            if arguments[0] == "run":
                first, _, _ = shown("resume-and-fork.md", "coxswain run").partition(" ...")
                assert first in plain(printed)
                assert "UPSTREAM_REJECTED" in printed
    assert list(names) == []
    copied = {
        name: [task.task_name for task in outputs(client, ended(client, execution.id)) if task.copied]
        for name, execution in named.items()
    }
    assert copied == {"01a2...a1": [], "01a2...b2": ["read"], "01a2...c3": ["read"], "01a2...d4": ["read"]}
    [snippet] = blocks("resume-and-fork.md", "python")
    exec(snippet.replace("anthropic/claude-sonnet-5-5", MODEL), {"client": client, "execution": named["01a2...b2"]})
    ended(client, newest(client).id)
