"""One warm fork server for all tests here: importing CrewAI takes seconds."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.orchestrator.worker.host import crew_process
from services.orchestrator.worker.host.crew_environment import crew_environment
from services.orchestrator.worker.host.crew_process import ForkServer


@pytest.fixture(scope="module", autouse=True)
def measured() -> Iterator[None]:
    """Have fork servers let coverage be measured in what they fork."""
    with _measuring():
        yield


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fork_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ForkServer]:
    data: Path = tmp_path_factory.mktemp("crew")
    async with ForkServer(crew_environment(data)) as server:
        with _measuring():
            await server.warm()
        yield server


@contextlib.contextmanager
def _measuring() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crew_process, "_COMMAND", ("-m", "tests.support.measured_fork_server"))
        yield
