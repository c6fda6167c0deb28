"""The official client of the last release that speaks A2A 0.3 alone, in an environment of its own."""

import asyncio
import json
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from services.orchestrator.settings import OrchestratorSettings
from tests.integration.orchestrator.a2a_support import play, publish
from tests.integration.orchestrator.support import working
from tests.support.child_process import free_port
from tests.support.harness import serve_services
from tests.support.own_environment import ROOT, python_of

FOLDER = ROOT / "tests" / "support" / "a2a_03"
DEV = "dev:dev:default=admin"


@pytest.mark.large
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_last_client_of_0_3_finds_an_agent_and_works_with_it(tmp_path: Path, database_url: str) -> None:
    python = await asyncio.to_thread(python_of, "a2a-03", FOLDER / "client.txt")
    port = free_port()
    settings = {"orchestrator": OrchestratorSettings(a2a_http_port=port)}
    async with (
        serve_services(tmp_path, "models", "orchestrator", settings=settings) as harness,
        working(harness, database_url) as worker,
    ):
        await publish(harness, DEV, is_default=True)
        cards = f"http://127.0.0.1:{port}"
        program = await asyncio.create_subprocess_exec(
            *(python, FOLDER / "client.py", "--cards", cards, "--address", harness.address, "--token", DEV),
            stdout=PIPE,
        )
        playing = asyncio.create_task(play(harness, worker, DEV))
        printed, _ = await asyncio.wait_for(program.communicate(), 60)
        playing.cancel()
    told = json.loads(printed)
    assert told["name"].startswith("crew ")
    assert told["told"] == [
        ["task", "input-required"],
        ["task", "submitted"],
        ["status", "input-required"],
        ["task", "working"],
        ["status", "working"],
        ["artifact", "A brief."],
        ["status", "completed"],
    ]
    assert told["config"] == ["set", True]
    # The states are those of the task when each notification was made.
    assert {path: (len(states), states[-1]) for path, states in told["posted"].items()} == {
        "/sent": (3, "completed"),
        "/set": (3, "completed"),
    }
    assert (told["read"], told["turns"], told["cancelled"]) == ("completed", 4, "canceled")
