"""An installation for each test, held in memory or of real services."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import Result

from tests.integration.client.command_line import CREW, Run, invoke
from tests.integration.client.installation import Installation, Relay, Server
from tests.support.harness import serve_services


@pytest.fixture
def installation() -> Installation:
    # Methods a test does not script answer UNIMPLEMENTED, as generated servicers do.
    return Installation()  # type: ignore[abstract]


@pytest.fixture
def server(installation: Installation) -> Iterator[Server]:
    server = installation.serve()
    yield server
    server.stop()


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    relay = Relay(server.address)
    yield relay
    relay.close()


@pytest.fixture
async def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    """Runs a command against auth, models, memory and orchestrator; no worker takes executions."""
    # Nothing tells the loops of a service that a test has changed its clock: they look each second.
    monkeypatch.setattr("services.orchestrator.usecases.hinted_loop._LONGEST_PAUSE", 1)
    # Logs of services in this process would stand in what the command prints.
    with structlog.testing.capture_logs():
        async with serve_services(tmp_path / "data", "models", "memory", "orchestrator") as harness:

            async def run(*arguments: str, **more: Any) -> Result:
                return await asyncio.to_thread(invoke, harness.address, *arguments, **more)

            run.address = harness.address  # type: ignore[attr-defined]
            yield run


@pytest.fixture
def crew_file(tmp_path: Path) -> str:
    path = tmp_path / "crew.yaml"
    path.write_text(CREW)
    return str(path)
