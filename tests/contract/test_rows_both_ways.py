"""Rows of every kind: those the official clients write are read here, and those written here are read by them."""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from services.memory.domain.filters import EVERYTHING
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import (
    Body,
    Document,
    Entity,
    LongTerm,
    MemoryKind,
    Record,
    Relationship,
    ShortTerm,
    Unified,
)
from services.memory.domain.vectors import unit_vector
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.rows.parsing import parse_row
from services.memory.stores.databricks.filter_language import Owner
from tests.integration.memory.databricks_parts import ENDPOINT, open_repository, workspace_client
from tests.integration.memory.store_model import NOW
from tests.support.vector_search_emulator import VectorSearchEmulator

# The clients bring mlflow, which would report its use.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from databricks.ai_search.client import AISearchClient
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config

INDEX = "main.memories.rows"
VECTOR = unit_vector([0.6, 0.8, 0])
BODIES: dict[MemoryKind, Body] = {
    MemoryKind.UNIFIED: Unified("ümlaut", "/a", ("x", "y"), 0.5, "bob", last_accessed=NOW, session_id="s"),
    MemoryKind.SHORT_TERM: ShortTerm("ümlaut", "asked", "s", 7, 87600),
    MemoryKind.LONG_TERM: LongTerm("ümlaut", "the task", 0.5, 0.25, NOW),
    MemoryKind.ENTITY: Entity("Ann", "person", "ümlaut", (Relationship("knows", "Ben"),)),
    MemoryKind.DOCUMENT: Document("ümlaut", "title", "file", "pdf", "1", 2, 3, "parent", "summary", ("a",), NOW),
}
KINDS = list(BODIES)


@pytest.fixture(params=["ai_search", "sdk"])
def official(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> str:
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none.cfg"))
    return str(request.param)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> MemoryKind:
    return MemoryKind(request.param)


@pytest.fixture
def vectors(kind: MemoryKind) -> Iterator[VectorSearchEmulator]:
    with VectorSearchEmulator() as emulator:
        emulator.add_endpoint(ENDPOINT)
        emulator.add_index(INDEX, ENDPOINT, DatabricksIndexSchemas.get_schema(kind), 3)
        yield emulator


def _key(kind: MemoryKind) -> NamespaceKey:
    return NamespaceKey("sales", "" if kind is MemoryKind.DOCUMENT else "crew", kind)


def _write(client: str, url: str, row: dict[str, Any]) -> None:
    if client == "ai_search":
        index: Any = AISearchClient(workspace_url=url, personal_access_token="x", disable_notice=True)
        index.get_index(ENDPOINT, INDEX).upsert([row])
        return
    config = Config(host=url, token="x", auth_type="pat", http_timeout_seconds=60)
    WorkspaceClient(config=config).vector_search_indexes.upsert_data_vector_index(INDEX, json.dumps([row]))


def _read(client: str, url: str, columns: list[str]) -> dict[str, Any]:
    vector = VECTOR.astype(float).tolist()
    if client == "ai_search":
        index: Any = AISearchClient(workspace_url=url, personal_access_token="x", disable_notice=True)
        found = index.get_index(ENDPOINT, INDEX).similarity_search(columns, query_vector=vector, disable_notice=True)
        return dict(zip(columns, found["result"]["data_array"][0], strict=False))
    config = Config(host=url, token="x", auth_type="pat", http_timeout_seconds=60)
    page: Any = WorkspaceClient(config=config).vector_search_indexes.query_index(INDEX, columns, query_vector=vector)
    return dict(zip(columns, page.result.data_array[0], strict=False))


async def test_a_row_of_an_official_client_is_a_record(
    vectors: VectorSearchEmulator, kind: MemoryKind, official: str
) -> None:
    key = _key(kind)
    row = {"id": "theirs", "group_id": "sales", "crew_id": "crew", "content": "text", "entity_name": "Ann"}
    row = {name: value for name, value in row.items() if name in DatabricksIndexSchemas.get_schema(kind)}
    await asyncio.to_thread(_write, official, vectors.url, row | {"embedding": [1.0, 0.0, 0.0]})
    async with workspace_client() as client:
        repository = open_repository(client, vectors.url)
        owner = Owner(kind, key.group_id, key.memory_id)
        found = await repository.searches.similarity_search(
            INDEX, owner, unit_vector([1, 0, 0]), EVERYTHING, 5, NOW, embeddings=True
        )
        (hit,) = found.hits
        assert (hit.record.id, hit.record.body.__class__) == ("theirs", BODIES[kind].__class__)
        assert hit.similarity == pytest.approx(1.0)
        assert list(await repository.find(INDEX, key, ["theirs"])) == ["theirs"]
        scanned = [each async for page, _ in repository.scan(INDEX, owner) for each in page]
        assert [parse_row(kind, each).id for each in scanned] == ["theirs"]


async def test_a_record_written_here_is_read_whole_by_an_official_client(
    vectors: VectorSearchEmulator, kind: MemoryKind, official: str
) -> None:
    record = Record("ours", BODIES[kind], VECTOR, "agent", "model", ("tool",), '{"k":[1,null]}', NOW)
    async with workspace_client() as client:
        await open_repository(client, vectors.url).upsert(INDEX, _key(kind), [record], "test/embed")
    columns = list(DatabricksIndexSchemas.get_schema(kind))
    row = await asyncio.to_thread(_read, official, vectors.url, columns)
    parsed = parse_row(kind, row)
    assert parsed.embedding is not None
    np.testing.assert_allclose(parsed.embedding, VECTOR, atol=1e-6)
    parsed.embedding, parsed.revision = record.embedding, record.revision
    assert parsed == record
