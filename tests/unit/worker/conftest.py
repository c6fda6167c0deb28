"""One warm fork server for all tests of a module: importing CrewAI takes seconds."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.common.backoff import Backoff
from services.orchestrator.worker.host import peer_retry
from services.orchestrator.worker.host.crew_environment import crew_environment
from services.orchestrator.worker.host.crew_process import ForkServer
from tests.unit.worker.call_world import World


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fork_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ForkServer]:
    data: Path = tmp_path_factory.mktemp("crew")
    async with ForkServer(crew_environment(data)) as server:
        await server.warm()
        yield server


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Calls of a crew process; what does not answer is asked again at once."""
    monkeypatch.setattr(peer_retry, "_BACKOFF", Backoff(0.001, 5.0))
    return World()
