"""What the command line says to do about errors is a command that exists."""

import json
import re
from typing import Any

import grpc
import pytest
from typer.main import get_command

from coxswain.client.cli import failures, remedies
from coxswain.client.cli.app import app
from coxswain.client.cli.remedies import remedy_for
from coxswain.client.cli.session import Session
from coxswain.client.connection import Connection
from coxswain.client.errors import CoxswainError


def failure(reason: str, **metadata: str) -> CoxswainError:
    return CoxswainError("it failed", code=grpc.StatusCode.UNKNOWN, reason=reason, metadata=metadata)


def test_a_client_alone_is_not_told_to_start_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    away = CoxswainError("no connection", code=grpc.StatusCode.UNAVAILABLE)
    assert "`coxswain up`" in remedy_for(away)
    monkeypatch.setattr(remedies, "serves_here", lambda: False)
    assert remedy_for(away) == "give the address of a server with --address or COXSWAIN_ADDRESS"


@pytest.mark.parametrize("resource", remedies._LISTS)
def test_what_is_not_found_is_listed_by_a_command(resource: str) -> None:
    [words] = re.findall("`coxswain (.*)`", remedy_for(failure("NOT_FOUND", resource=resource)))
    command: Any = get_command(app)
    for word in words.split():
        command = command.commands[word]


@pytest.mark.parametrize(
    ("tool", "meant"),
    [
        # The source is known: what it does not have is the tool.
        ("search/translate", ""),
        ("serach/translate", "did you mean 'search' or 'search2'?"),
        # Without a source it is a tool, and no source is meant.
        ("calculater", "did you mean 'calculator'?"),
        ("serach", ""),
    ],
)
def test_what_is_near_is_of_the_kind_that_is_not_known(monkeypatch: pytest.MonkeyPatch, tool: str, meant: str) -> None:
    names = {"tool source": ["search", "search2"], "tool": ["calculator"]}
    monkeypatch.setattr(failures, "names_of", lambda _connection, resource: names[resource])
    session = Session(connection=Connection(address="127.0.0.1:1"))
    assert failures._meant(session, failure("TOOL_NOT_FOUND", tool=tool)) == meant


def test_names_that_are_near_are_asked_for_only_where_they_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = list[str]()

    def names_of(_client: object, resource: str) -> list[str]:
        asked.append(resource)
        return ["calculator"]

    monkeypatch.setattr(failures, "names_of", names_of)
    unknown = failure("TOOL_NOT_FOUND", tool="calculater")
    failures.end_of(unknown, Session(connection=Connection(address="127.0.0.1:1"), json=True))
    assert (asked, json.loads(capsys.readouterr().err)["reason"]) == ([], "TOOL_NOT_FOUND")
    failures.end_of(unknown, Session(connection=Connection(address="127.0.0.1:1")))
    assert (asked, "did you mean 'calculator'?" in capsys.readouterr().err) == (["tool"], True)


@pytest.mark.parametrize(
    ("model", "said"),
    [("ollama/llama3.2", "OLLAMA_BASE_URL"), ("vllm/Qwen/Qwen3-8B", "VLLM_BASE_URL"), ("openai/gpt-5", "")],
)
def test_a_server_of_ones_own_that_is_away_is_to_be_started(model: str, said: str) -> None:
    remedy = remedy_for(failure("UPSTREAM_UNAVAILABLE", model=model))
    assert said in remedy
    assert bool(said) == bool(remedy)
