"""One database of each kind for all tests of a module; each call has an id of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.db.database import Database
from services.common.identity.service_identity import ServiceIdentity
from tests.conftest import new_database
from tests.support.service_tables import make_service_tables


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def calls_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a database with the orchestrator's tables."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('calls') / 'orchestrator.db'}"
    else:
        url = new_database(request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_template"))
    make_service_tables("orchestrator", url)
    return url


@pytest.fixture
async def database(calls_url: str) -> AsyncIterator[Database]:
    """The database, for the loop of one test."""
    opened = Database(calls_url, "orchestrator", null_pool=calls_url.startswith("postgres"))
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> ServiceIdentity:
    """The key that all replicas have."""
    directory: Path = tmp_path_factory.mktemp("keys")
    return ServiceIdentity.load(directory, "tools", create=True)
