"""The orchestrator's API with real auth and models beside it, on each database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.db.database import Database
from services.orchestrator.settings import OrchestratorSettings
from tests.integration.orchestrator.support import Worker, working
from tests.integration.orchestrator.use_cases import Orchestrator
from tests.support.harness import Harness, serve_services
from tests.support.service_tables import make_service_tables


@pytest.fixture
async def harness(database_url: str, tmp_path: Path) -> AsyncIterator[Harness]:
    """Services on loopback; what a test waits for must come by hints, not by the slow reads that cover lost ones."""
    settings = OrchestratorSettings(watch_safety_read_seconds=3600, housekeeping_seconds=3600)
    async with serve_services(
        tmp_path, "models", "orchestrator", database_url=database_url, settings={"orchestrator": settings}
    ) as served:
        yield served


@pytest.fixture
async def worker(harness: Harness, database_url: str) -> AsyncIterator[Worker]:
    """Somebody who plays the worker host."""
    async with working(harness, database_url) as played:
        yield played


@pytest.fixture
async def orchestrator(database_url: str) -> AsyncIterator[Orchestrator]:
    """The use cases without their service."""
    make_service_tables("orchestrator", database_url)
    database = Database(database_url, "orchestrator")
    served = Orchestrator(database)
    await served.prepare()
    yield served
    await database.close()
