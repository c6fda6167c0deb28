"""The examples of the README of the client work."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from coxswain.client.cli.app import app
from coxswain.orchestrator.v1 import execution_pb2 as pb
from tests.integration.client.installation import Installation, Server

ROOT = Path(__file__).parents[3]
README = (ROOT / "clients" / "python" / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith("coxswain ")]


def end(installation: Installation) -> None:
    succeeded = pb.ExecutionSucceeded(result=pb.TaskOutput(text="The brief."))
    installation.emit(pb.ExecutionEvent(sequence=1, execution_succeeded=succeeded))


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_blocking_example_prints_the_result(
    server: Server, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    end(installation)
    exec(blocks("python")[0].replace("127.0.0.1:50051", server.address), {})
    assert capsys.readouterr().out == "The brief.\n"


def test_the_asyncio_example_shows_the_events(
    server: Server, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.crews["1"] = pb_crew()
    end(installation)
    exec(blocks("python")[1].replace("127.0.0.1:50051", server.address), {})
    assert capsys.readouterr().out == "1 execution_succeeded\n"


def pb_crew() -> Any:
    from coxswain.orchestrator.v1.crew_pb2 import Crew, CrewSpec

    return Crew(id="1", revision=1, spec=CrewSpec(name="brief"))


@pytest.mark.parametrize("line", commands())
def test_every_command_shown_is_one(line: str) -> None:
    command: Any = get_command(app)
    arguments = shlex.split(line, comments=True)[1:]
    context = command.make_context("coxswain", [], resilient_parsing=True)
    while True:
        name, command, arguments = command.resolve_command(context, arguments)
        if not hasattr(command, "resolve_command"):
            break
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    assert command.make_context(name, arguments, parent=context).params
