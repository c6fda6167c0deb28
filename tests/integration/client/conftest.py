"""An installation for each test, held in memory or of real services."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import structlog

from tests.integration.client.command_line import CREW, Run
from tests.integration.client.installation import Installation, Relay, Server
from tests.support.harness import ALICE, serve_services


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a busy machine time for what a person would not wait for: then less is said."""
    monkeypatch.setattr("coxswain.client.cli.failures._SECONDS_FOR_NAMES", 60.0)
    for client in ("aio", "blocking"):
        monkeypatch.setattr(f"coxswain.client.{client}._CHECK_SECONDS", 60.0)


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


@contextlib.asynccontextmanager
async def _services(data_dir: Path) -> AsyncIterator[Run]:
    """Auth, models, memory and orchestrator; no worker takes executions."""
    with pytest.MonkeyPatch.context() as patch:
        # Nothing tells the loops of a service that a test has changed its clock: they look each second.
        patch.setattr("services.orchestrator.usecases.hinted_loop._LONGEST_PAUSE", 1)
        # Logs of services in this process would stand in what the command prints.
        with structlog.testing.capture_logs():
            async with serve_services(data_dir, "models", "memory", "orchestrator") as harness:
                yield Run(harness.address)


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """Runs commands against services of the test's own."""
    async with _services(tmp_path / "data") as run:
        yield run


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    """Services for all tests of a module that runs in one loop."""
    async with _services(tmp_path_factory.mktemp("data")) as run:
        yield run


@pytest.fixture
def run_in_own_group(shared_services: Run, request: pytest.FixtureRequest) -> Run:
    """Runs commands against the services of the module, in a group that no other test has."""
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return Run(shared_services.address, ALICE.replace("sales", f"sales-{digest}"))


@pytest.fixture
def crew_file(tmp_path: Path) -> str:
    path = tmp_path / "crew.yaml"
    path.write_text(CREW)
    return str(path)
