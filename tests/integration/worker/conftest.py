"""The orchestrator's database, the rows as hosts use them, and an installation with a host."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.common.db.database import Database
from services.orchestrator.worker.host.run_store import RunStore
from tests.integration.worker.installation import Installation, install
from tests.support.service_tables import make_service_tables


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    make_service_tables("orchestrator", database_url)
    opened = Database(database_url, "orchestrator")
    yield opened
    await opened.close()


@pytest.fixture
def store(database: Database) -> RunStore:
    return RunStore(database)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """An installation for all tests of a module; starting a worker host takes seconds."""
    async with install(tmp_path_factory.mktemp("installation")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def clean(host: Installation) -> AsyncIterator[Installation]:
    """An upstream without rules."""
    yield host
    host.llm.clear_rules()
    host.llm.release()
    host.llm.clear_log()


@pytest_asyncio.fixture(loop_scope="module")
async def lone(clean: Installation) -> Installation:
    """One living host at least."""
    await clean.hosts(1)
    return clean
