"""The orchestrator's database, and the rows as hosts use them."""

from collections.abc import AsyncIterator

import pytest

from services.common.db.database import Database
from services.orchestrator.worker.host.run_store import RunStore
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
