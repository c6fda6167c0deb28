"""Memory on loopback, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.memory.support import EmbeddingModels, serve_memory
from tests.support.harness import Harness


@pytest.fixture
async def served(tmp_path: Path, database_url: str) -> AsyncIterator[tuple[Harness, EmbeddingModels]]:
    async with serve_memory(tmp_path, database_url) as both:
        yield both


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Harness]:
    """On SQLite alone, for what no database decides."""
    async with serve_memory(tmp_path) as (harness, _):
        yield harness
