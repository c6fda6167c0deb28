"""Completion in a shell: names of the installation that the line is about, and silence when there is none."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coxswain.client.cli.app import app
from coxswain.client.cli.complete import _SECONDS
from coxswain.client.cli.contexts import Context, Contexts, save_contexts
from coxswain.orchestrator.v1 import a2a_pb2, crew_pb2
from tests.integration.client.command_line import Run
from tests.integration.client.installation import Installation, Server
from tests.support.waiting import PATIENCE

Complete = Callable[[str], list[str]]


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Complete:
    monkeypatch.setenv("COXSWAIN_CONTEXTS", str(tmp_path / "contexts.json"))
    # A second, which a shell is given, may be too short on a busy machine.
    monkeypatch.setattr("coxswain.client.cli.complete._SECONDS", 60.0)

    def complete(line: str) -> list[str]:
        environment = {"_COXSWAIN_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        result = CliRunner().invoke(app, [], env=environment, prog_name="coxswain")
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout.split()

    return complete


@pytest.fixture
def crews(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(self: Installation, request: object, context: object) -> crew_pb2.ListCrewsResponse:
        self.enter("ListCrews", request, context)
        names = ("brief", "bridge", "other", "bri$(reboot)", "bri\x1b[2J", "bri\u202e")
        return crew_pb2.ListCrewsResponse(crews=[crew_pb2.Crew(spec=crew_pb2.CrewSpec(name=name)) for name in names])

    def published(self: Installation, request: object, context: object) -> a2a_pb2.ListPublicationsResponse:
        self.enter("ListPublications", request, context)
        return a2a_pb2.ListPublicationsResponse(publications=[a2a_pb2.Publication(crew_name="bridge")])

    monkeypatch.setattr(Installation, "ListCrews", listed)
    monkeypatch.setattr(Installation, "ListPublications", published)


@pytest.mark.usefixtures("crews")
def test_names_come_from_the_installation_of_the_line(
    complete: Complete, server: Server, installation: Installation
) -> None:
    at = f"coxswain --address {server.address} --token dev:alice:sales=admin"
    for command in ("run", "crews get", "crew diff", "crews publish", "memory list --crew"):
        expected = [] if "diff" in command else ["bridge", "brief"]
        assert sorted(complete(f"{at} {command} bri")) == sorted(expected)
    assert complete(f"{at} agents send ") == ["bridge"]
    assert {one["authorization"] for one in installation.metadata} == {"Bearer dev:alice:sales=admin"}


@pytest.mark.usefixtures("crews")
@pytest.mark.parametrize("tls", ["false", "0", "no"])
def test_a_flag_of_the_environment_counts_as_it_does_for_commands(
    complete: Complete, server: Server, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    monkeypatch.setenv("COXSWAIN_TLS", tls)
    line = f"coxswain --address {server.address} --token dev:alice:sales=admin crews get bri"
    assert sorted(complete(line)) == ["bridge", "brief"]


@pytest.mark.usefixtures("crews")
def test_a_shell_waits_for_a_second_at_most(
    complete: Complete, server: Server, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coxswain.client.cli.complete._SECONDS", _SECONDS)
    for _ in range(PATIENCE):
        # On a busy machine the second may be over before the call arrives.
        complete(f"coxswain --address {server.address} --token dev:alice:sales=admin crews get bri")
        if installation.deadlines:
            break
    assert installation.deadlines
    # gRPC rounds a deadline up on its way, and the clocks of both sides differ a little.
    assert all(left is not None and left < 2 for left in installation.deadlines)


async def test_names_of_all_that_a_group_has(run: Run, complete: Complete) -> None:
    made = [
        await run("secret", "put", "llm/openai", "--origin", "https://api.openai.com", stdin="v"),
        await run("tokens", "create", "nightly"),
        await run("tool", "source", "create", "billing", "--mcp", "https://mcp.example.com/mcp"),
    ]
    assert [result.exit_code for result in made] == [0, 0, 1]
    at = f"coxswain --address {run.address} --token {run.token}"
    for line, names in {
        "secret delete ": ["llm/openai"],
        "tokens revoke n": ["nightly"],
        "tool source get ": ["billing"],
        "tool list --source b": ["billing"],
        "tool test calc": ["calculator"],
        "budget show --model offline/ex": ["offline/extract"],
        "--group ": ["sales"],
        "whoami --group s": ["sales"],
        "batch show ": [],
    }.items():
        assert await asyncio.to_thread(complete, f"{at} {line}") == names, line


def test_contexts_and_commands_are_completed_without_a_server(complete: Complete) -> None:
    assert complete("coxswain context use ") == []
    save_contexts(Contexts("here", {name: Context("127.0.0.1:1") for name in ("here", "there", "a b")}))
    assert complete("coxswain context use ") == ["here", "there"]
    assert complete("coxswain --context th") == ["there"]
    assert "crews" in complete("coxswain cr")
    assert complete("coxswain crews ex") == ["export"]


async def test_a_group_of_the_environment_that_is_none_is_left_out(
    run: Run, complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COXSWAIN_GROUP", "salse")
    monkeypatch.setattr("coxswain.client.cli.session.DEFAULT_ADDRESS", run.address)
    monkeypatch.setattr("coxswain.client.connection.DEFAULT_ADDRESS", run.address)
    monkeypatch.delenv("COXSWAIN_ADDRESS", raising=False)
    line = f"coxswain --token {run.token} --group s"
    assert await asyncio.to_thread(complete, line) == ["sales"]
    save_contexts(Contexts("here", {"here": Context(run.address, run.token, "salse")}))
    assert await asyncio.to_thread(complete, "coxswain --group s") == ["sales"]


def test_nothing_is_said_when_no_server_answers(complete: Complete) -> None:
    assert complete("coxswain --address 127.0.0.1:1 crews get ") == []
    assert complete(f"coxswain --address 127.0.0.1:1 --ca-file {os.devnull}x crews get ") == []
