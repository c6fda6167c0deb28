"""Fallbacks on the command line, against real services."""

import asyncio
from typing import Any

import pytest

from coxswain.client import Client
from coxswain.models.v1.model_pb2 import Capabilities, CreateModelRequest, Model, Provider
from tests.integration.client.command_line import Run, rows
from tests.support.harness import ALICE

MODEL = Model(name="sales/chat", provider=Provider.PROVIDER_OPENAI, capabilities=Capabilities(chat=True))


@pytest.fixture
async def group_model(run: Run) -> None:
    def create() -> None:
        with Client(run.address, token=ALICE) as client:
            client.models.CreateModel(CreateModelRequest(model=MODEL))

    await asyncio.to_thread(create)


def said(result: Any) -> str:
    assert result.exit_code == 0, result.stderr
    return " ".join(result.stdout.split())


@pytest.mark.usefixtures("group_model")
async def test_fallbacks_are_chosen_shown_and_removed(run: Run) -> None:
    assert said(await run("fallbacks", "sales/chat")) == "no fallbacks"
    words = said(
        await run("fallbacks", "sales/chat", "--on-outage", "ollama/llama3.2", "--on-outage", "offline/extract")
    )
    assert words == "on asked in this order outage ollama/llama3.2, offline/extract"
    await run("fallbacks", "sales/chat", "--on-context-window", "ollama/llama3.2")
    [found] = rows(await run("fallbacks", "sales/chat", "--json"))
    assert found == {"on_outage": ["ollama/llama3.2", "offline/extract"], "on_context_window": ["ollama/llama3.2"]}
    words = said(await run("fallbacks", "sales/chat", "--none", "--on-content-filter", "offline/extract"))
    assert words == "on asked in this order content filter offline/extract"
    assert said(await run("fallbacks", "sales/chat", "--none")) == "no fallbacks"


@pytest.mark.usefixtures("group_model")
async def test_a_name_that_nobody_has_is_answered_with_a_near_one(run: Run) -> None:
    failed = await run("fallbacks", "sales/chat", "--on-outage", "offline/extrac")
    assert failed.exit_code != 0
    assert 'did you mean "offline/extract"' in " ".join(failed.stderr.split())
    shared = await run("fallbacks", "offline/extract", "--none")
    assert "shared by all groups" in " ".join(shared.stderr.split())
