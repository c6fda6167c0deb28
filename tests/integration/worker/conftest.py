"""The orchestrator's database, and the rows as hosts use them."""

from collections.abc import AsyncIterator

import pytest

from services.common.db.database import Database
from services.common.db.migrate import upgrade_database
from services.orchestrator.worker.host.run_store import RunStore
from tests.support.migrated import copy_migrated


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    copy_migrated("orchestrator", database_url)
    await upgrade_database("orchestrator", database_url)
    opened = Database(database_url, "orchestrator")
    yield opened
    await opened.close()


@pytest.fixture
def store(database: Database) -> RunStore:
    return RunStore(database)
