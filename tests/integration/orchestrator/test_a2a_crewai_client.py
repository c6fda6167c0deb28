"""CrewAI's own client of A2A delegates to a published crew, from an environment of its own."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from a2a.types import a2a_pb2 as pb

from services.orchestrator.settings import OrchestratorSettings
from tests.integration.orchestrator.a2a_support import agent, play, publish
from tests.integration.orchestrator.support import working
from tests.support.child_process import free_port
from tests.support.harness import serve_services
from tests.support.own_environment import ROOT, python_of

FOLDER = ROOT / "tests" / "support" / "crewai_a2a"
DEV = "dev:dev:default=admin"


@pytest.mark.large
@pytest.mark.timeout(400)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_crewai_delegates_over_grpc_and_answers_what_it_is_asked(tmp_path: Path, database_url: str) -> None:
    python = await asyncio.to_thread(python_of, "crewai-a2a", FOLDER / "client.txt")
    # CrewAI is that of the product, with the packages of its extra before those that the product has instead.
    packages = python.parents[1] / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    environment = {
        **os.environ,
        "PYTHONPATH": str(packages),
        "CREWAI_DISABLE_TELEMETRY": "true",
        "OTEL_SDK_DISABLED": "true",
        "HOME": str(tmp_path),
    }
    port, public = free_port(), free_port()
    # This client goes where the card says.
    settings = {"orchestrator": OrchestratorSettings(a2a_http_port=port, a2a_public_address=f"127.0.0.1:{public}")}
    async with (
        serve_services(tmp_path, "models", "orchestrator", settings=settings, public_port=public) as harness,
        working(harness, database_url) as worker,
    ):
        await publish(harness, DEV, is_default=True)
        card = f"http://127.0.0.1:{port}/.well-known/agent.json"
        playing = asyncio.create_task(play(harness, worker, DEV))
        programs = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, str(FOLDER / "client.py"), "--card", card, "--token", DEV, *options),
                stdout=PIPE,
                env=environment,
            )
            for options in ((), ("--polls",))
        ]
        try:
            printed = await asyncio.wait_for(asyncio.gather(*(program.communicate() for program in programs)), 300)
        finally:
            playing.cancel()
            for program in programs:
                if program.returncode is None:
                    program.kill()
        tasks = (await agent(harness, DEV).ListTasks(pb.ListTasksRequest())).tasks
    for output, _ in printed:
        # CrewAI prints what it does around it.
        told = json.loads(next(line for line in output.splitlines() if line.startswith(b"{")))
        assert told["name"].startswith("crew ")
        *asked, (ended, result) = told["told"]
        assert asked == [
            ["input-required", "These inputs are missing: topic."],
            ["input-required", "Is this result good?"],
        ]
        # Where it polls, it puts the agent's last words before the result.
        assert (ended, result.removeprefix("Is this result good? draft ")) == ("completed", "A brief.")
    assert len(tasks) == 2
