"""One warm fork server for all tests of a module: importing CrewAI takes seconds."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.orchestrator.worker.host.crew_environment import crew_environment
from services.orchestrator.worker.host.crew_process import ForkServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fork_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ForkServer]:
    data: Path = tmp_path_factory.mktemp("crew")
    async with ForkServer(crew_environment(data)) as server:
        await server.warm()
        yield server
