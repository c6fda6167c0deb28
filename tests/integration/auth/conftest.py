"""Auth on loopback, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.harness import Harness, serve_services


@pytest.fixture
async def auth(tmp_path: Path, database_url: str) -> AsyncIterator[Harness]:
    async with serve_services(tmp_path, database_url=database_url) as harness:
        yield harness
