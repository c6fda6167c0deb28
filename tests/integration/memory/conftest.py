"""Memory on loopback, on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.memory.settings import MemorySettings
from tests.conftest import new_database
from tests.integration.memory.databricks_support import World, make_indexes, serve_beside, use_workspace
from tests.integration.memory.pgvector_support import (
    database_message,
    front_of,
    make_tables,
    serve_with_databases,
    use_database,
)
from tests.integration.memory.support import EmbeddingModels, serve_memory
from tests.support.harness import ALICE, BOB, Harness
from tests.support.vector_search_emulator import VectorSearchEmulator


@pytest.fixture
async def served(tmp_path: Path, database_url: str) -> AsyncIterator[tuple[Harness, EmbeddingModels]]:
    async with serve_memory(tmp_path, database_url) as both:
        yield both


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Harness]:
    """On SQLite alone, for what no database decides."""
    async with serve_memory(tmp_path) as (harness, _):
        yield harness


@pytest.fixture(scope="session")
def pgvector_template(postgres_server: str) -> str:
    """URL of a database with all that a backend keeps in one, for others to be copies of."""
    url = new_database(postgres_server)
    asyncio.run(make_tables(url))
    return url


@pytest.fixture
def pgvector_url(postgres_server: str, pgvector_template: str) -> str:
    """URL of a database that is provisioned and empty."""
    return new_database(postgres_server, template=pgvector_template)


@pytest.fixture(params=["sqlite", "postgresql", "chroma", "databricks", "pgvector"])
def store(request: pytest.FixtureRequest) -> tuple[str, str]:
    """What keeps the memories, and the URL of its database, where that is PostgreSQL."""
    fixture = {"postgresql": "postgres_url", "pgvector": "pgvector_url"}.get(request.param)
    return request.param, request.getfixturevalue(fixture) if fixture else ""


@pytest.fixture
async def everywhere(store: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    """On every store; the groups "sales" and "legal" have backends where it is a workspace, or share a database."""
    kind, url = store
    if kind == "pgvector":
        async with front_of(url, tmp_path, monkeypatch) as front, serve_with_databases(tmp_path) as harness:
            await use_database(harness, database_message(front, url), ALICE, BOB, provision=False)
            yield harness
        return
    with VectorSearchEmulator() as vectors:
        monkeypatch.setenv("DATABRICKS_HOST", vectors.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-operator")
        settings = MemorySettings(
            default_store="chroma" if kind == "chroma" else "sql",
            databricks_visibility_seconds=0.01,
            databricks_settle_seconds=0,
        )
        async with serve_memory(tmp_path, url, settings=settings) as (harness, _):
            if kind == "databricks":
                make_indexes(vectors)
                await use_workspace(harness, vectors.url, ALICE, BOB)
            yield harness


@pytest.fixture
def vectors() -> Iterator[VectorSearchEmulator]:
    with VectorSearchEmulator() as emulator:
        yield emulator


@pytest.fixture
async def world(tmp_path: Path, vectors: VectorSearchEmulator, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with serve_beside(tmp_path, "", vectors, monkeypatch) as served:
        yield served


@pytest.fixture
async def world_on(
    tmp_path: Path, database_url: str, vectors: VectorSearchEmulator, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """On SQLite and on PostgreSQL, for what rows decide."""
    async with serve_beside(tmp_path, database_url, vectors, monkeypatch) as served:
        yield served
