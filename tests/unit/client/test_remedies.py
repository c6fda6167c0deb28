"""What the command line says to do about errors is a command that exists."""

import re
from typing import Any

import grpc
import pytest
from typer.main import get_command

from coxswain.client.cli import remedies
from coxswain.client.cli.app import app
from coxswain.client.cli.remedies import remedy_for
from coxswain.client.errors import CoxswainError


def failure(reason: str, **metadata: str) -> CoxswainError:
    return CoxswainError("it failed", code=grpc.StatusCode.UNKNOWN, reason=reason, metadata=metadata)


@pytest.mark.parametrize("resource", remedies._LISTS)
def test_what_is_not_found_is_listed_by_a_command(resource: str) -> None:
    [words] = re.findall("`coxswain (.*)`", remedy_for(failure("NOT_FOUND", resource=resource)))
    command: Any = get_command(app)
    for word in words.split():
        command = command.commands[word]


@pytest.mark.parametrize(
    ("model", "said"),
    [("ollama/llama3.2", "OLLAMA_BASE_URL"), ("vllm/Qwen/Qwen3-8B", "VLLM_BASE_URL"), ("openai/gpt-5", "")],
)
def test_a_server_of_ones_own_that_is_away_is_to_be_started(model: str, said: str) -> None:
    remedy = remedy_for(failure("UPSTREAM_UNAVAILABLE", model=model))
    assert said in remedy
    assert bool(said) == bool(remedy)
