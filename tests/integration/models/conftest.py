"""Models on loopback."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.models.support import Installation, serve_models


@pytest.fixture
async def served(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    """On SQLite and on PostgreSQL."""
    async with serve_models(tmp_path, monkeypatch, database_url=database_url) as installation:
        yield installation


@pytest.fixture
async def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    """On SQLite alone, for what no database decides."""
    async with serve_models(tmp_path, monkeypatch) as installation:
        yield installation
