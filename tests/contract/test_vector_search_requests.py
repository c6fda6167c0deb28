"""Our requests to Databricks Vector Search beside those of the official clients for the same work."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

import numpy as np
import pytest

from services.common.egress import AddressPolicy
from services.common.grpc.call import Call, enter_call
from services.common.http import EgressClient
from services.common.identity.credentials import OutboundCredential
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.scores import ScoreMeasure
from services.memory.domain.vectors import unit_vector
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.endpoint_types import EndpointTypes, Location
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.recent_writes import RecentWrites
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.transport import ClientLimits, Transport
from tests.integration.memory.store_model import NOW
from tests.support.databricks_http import Exchange
from tests.support.databricks_workspace import DatabricksWorkspace

# The clients bring mlflow, which would report its use.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from databricks.ai_search.client import AISearchClient
from databricks.ai_search.reranker import DatabricksReranker
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from databricks.sdk.service.vectorsearch import (
    DirectAccessVectorIndexSpec,
    EmbeddingVectorColumn,
    EndpointType,
    VectorIndexType,
)

INDEX, ENDPOINT, DIMENSION = "main.memories.unified", "shared", 3
KEY = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
OWNER = Owner(MemoryKind.UNIFIED, "sales", "crew")
ROWS = 1500


@dataclass(frozen=True)
class Sent:
    """What of a request the service reads."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


class Pat:
    """The same token as the official clients'."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def resolve(self, origin: str, provider: str = "") -> OutboundCredential:
        return OutboundCredential(self._token, on_behalf_of_user=False, from_cache=False)

    def forget(self, origin: str, provider: str = "") -> None:
        raise AssertionError(f"{origin} refused the token")


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[DatabricksWorkspace]:
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none.cfg"))
    with DatabricksWorkspace() as running:
        yield running


@pytest.fixture
def token(workspace: DatabricksWorkspace) -> str:
    return workspace.identity.add_pat(workspace.identity.add_user("ann@example.com"))


def _records() -> list[Record]:
    return [
        Record(f"r{n}", Unified(f"text {n}", categories=("a", "b")), unit_vector([1, n % 5, n % 3]), created_at=NOW)
        for n in range(ROWS)
    ]


def _ours(workspace: DatabricksWorkspace, token: str) -> tuple[DatabricksVectorIndexRepository, EgressClient]:
    enter_call(Call(request_id="test", method="/test"))
    http = EgressClient(
        AddressPolicy([ip_network("127.0.0.0/8")], setting="TEST"),
        connect_timeout=30,
        connections_per_origin=2,
    )
    limits = ClientLimits(
        attempts=1,
        attempt_seconds=20,
        call_seconds=60,
        upsert_rows=200,
        upsert_bytes=4_000_000,
        delete_keys=1000,
        scan_rows=1000,
        response_bytes=1 << 26,
    )
    client = VectorSearchClient(Transport(http, Pat(token), limits), limits)
    return DatabricksVectorIndexRepository(
        client, Location(workspace.url, ENDPOINT), EndpointTypes(), RecentWrites(0)
    ), http


def _sent(exchanges: list[Exchange], action: str) -> Sent:
    """Return the first request whose path ends with `action`."""
    exchange = next(e for e in exchanges if e.path.endswith(action))
    body = exchange.body
    if isinstance(body, dict):
        # Documents within documents are compared by what they say.
        body = {
            name: json.loads(value) if name in ("inputs_json", "filters_json", "schema_json") else value
            for name, value in body.items()
            if name != "page_token"
        }
        spec = body.get("direct_access_index_spec")
        if isinstance(spec, dict):
            body["direct_access_index_spec"] = spec | {"schema_json": json.loads(spec["schema_json"])}
    return Sent(exchange.method, exchange.path, dict(exchange.query), body)


async def _our_requests(workspace: DatabricksWorkspace, token: str) -> list[Exchange]:
    """Live a whole index life with our repository."""
    repository, http = _ours(workspace, token)
    log = workspace.vector_search
    await repository.resources.create_endpoint(storage_optimized=False)
    await repository.resources.describe_endpoint()
    await repository.resources.create_index(INDEX, MemoryKind.UNIFIED, DIMENSION)
    assert (await repository.resources.describe_index(INDEX)).dimension == DIMENSION
    await repository.upsert(INDEX, KEY, _records(), "m")
    assert (await repository.count_documents(INDEX, OWNER, EVERYTHING, NOW)).count == ROWS
    found = await repository.searches.similarity_search(
        INDEX, OWNER, unit_vector([1, 0, 0]), EVERYTHING, 7, NOW, embeddings=False
    )
    assert len(found.hits) == 7
    assert await repository.resources.list_indexes() == [INDEX]
    await repository.delete_records(INDEX, [KEY.stored_id("r0"), KEY.stored_id("r1")])
    await repository.resources.delete_index(INDEX)
    await repository.resources.delete_endpoint()
    await http.close()
    sent = list(log.log)
    log.clear_log()
    return sent


def _sdk_requests(
    workspace: DatabricksWorkspace, token: str, rows: list[Any], count: Any, search: Any
) -> list[Exchange]:
    """Live the same life with databricks-sdk."""
    config = Config(host=workspace.url, token=token, auth_type="pat", http_timeout_seconds=60)
    client = WorkspaceClient(config=config)
    endpoints: Any = client.vector_search_endpoints
    indexes: Any = client.vector_search_indexes
    endpoints.create_endpoint(ENDPOINT, EndpointType.STANDARD)
    endpoints.get_endpoint(ENDPOINT)
    spec = DirectAccessVectorIndexSpec(
        embedding_vector_columns=[
            EmbeddingVectorColumn(
                name=DatabricksIndexSchemas.VECTOR_COLUMN,
                embedding_dimension=DIMENSION,
            )
        ],
        schema_json=json.dumps(DatabricksIndexSchemas.get_schema("unified")),
    )
    indexes.create_index(INDEX, ENDPOINT, "id", VectorIndexType.DIRECT_ACCESS, direct_access_index_spec=spec)
    indexes.get_index(INDEX)
    for start in range(0, len(rows), 200):
        indexes.upsert_data_vector_index(INDEX, json.dumps(rows[start : start + 200]))
    for asked in (count, search):
        page = indexes.query_index(
            INDEX,
            asked["columns"],
            query_vector=asked["query_vector"],
            num_results=asked["num_results"],
            filters_json=json.dumps(asked["filters_json"]),
        )
        while page.next_page_token:
            page = indexes.query_next_page(INDEX, endpoint_name=ENDPOINT, page_token=page.next_page_token)
    list(indexes.list_indexes(ENDPOINT))
    indexes.delete_index(INDEX)
    endpoints.delete_endpoint(ENDPOINT)
    sent = list(workspace.vector_search.log)
    workspace.vector_search.clear_log()
    return sent


async def test_our_requests_are_those_of_databricks_sdk(workspace: DatabricksWorkspace, token: str) -> None:
    ours = await _our_requests(workspace, token)
    upserts = [_sent([e], "/upsert-data").body["inputs_json"] for e in ours if e.path.endswith("/upsert-data")]
    queries = [_sent([e], "/query").body for e in ours if e.path.endswith("/query")]
    rows = [row for batch in upserts for row in batch]
    theirs = _sdk_requests(workspace, token, rows, *queries)
    base = "/api/2.0/vector-search"
    for method, path in (
        ("POST", f"{base}/endpoints"),
        ("GET", f"{base}/endpoints/{ENDPOINT}"),
        ("POST", f"{base}/indexes"),
        ("GET", f"{base}/indexes/{INDEX}"),
        ("POST", f"{base}/indexes/{INDEX}/upsert-data"),
        ("POST", f"{base}/indexes/{INDEX}/query"),
        ("POST", f"{base}/indexes/{INDEX}/query-next-page"),
        ("GET", f"{base}/indexes"),
        ("DELETE", f"{base}/indexes/{INDEX}"),
        ("DELETE", f"{base}/endpoints/{ENDPOINT}"),
    ):
        pairs = [[_sent([e], path) for e in side if (e.method, e.path) == (method, path)] for side in (ours, theirs)]
        assert pairs[0], f"{method} {path} was never sent"
        # We look at an index once more to learn its dimension.
        unique = [[sent for n, sent in enumerate(side) if sent not in side[:n]] for side in pairs]
        assert unique[0] == unique[1]
    for exchange in ours:
        assert exchange.headers["authorization"] == f"Bearer {token}"
        assert exchange.path.startswith((f"{base}/indexes", f"{base}/endpoints"))
    # The stored vector is the one given.
    np.testing.assert_allclose(rows[0]["embedding"], unit_vector([1, 0, 0]).astype(np.float64), atol=1e-9)


async def test_our_reranked_and_bounded_queries_are_those_of_the_clients(
    workspace: DatabricksWorkspace, token: str
) -> None:
    vectors = workspace.vector_search
    vectors.add_endpoint(ENDPOINT)
    vectors.add_index(INDEX, ENDPOINT, DatabricksIndexSchemas.get_schema("unified"), DIMENSION)
    repository, http = _ours(workspace, token)
    await repository.upsert(INDEX, KEY, _records()[:3], "m")
    key = KEY.stored_id("r1")
    vectors.clear_log()
    assert await repository.searches.reranked(INDEX, OWNER, "text 1", ["content"], [key]) == [key]
    bounded = replace(repository.searches, scores=ScoreMeasure(bounds=True))
    vector = unit_vector([1, 0, 0])
    await bounded.similarity_search(INDEX, OWNER, vector, EVERYTHING, 7, NOW, embeddings=False, min_score=0.5)
    ours = [_sent([e], "/query").body for e in vectors.log if e.path.endswith("/query")]
    vectors.clear_log()
    client: Any = AISearchClient(workspace_url=workspace.url, personal_access_token=token, disable_notice=True)
    index = client.get_index(ENDPOINT, INDEX)
    for body, more in (
        (ours[0], {"query_text": "text 1", "reranker": DatabricksReranker(["content"])}),
        (ours[1], {"score_threshold": ours[1]["score_threshold"]}),
    ):
        index.similarity_search(
            body["columns"],
            query_vector=body["query_vector"],
            filters=body["filters_json"],
            num_results=body["num_results"],
            disable_notice=True,
            **more,
        )
    theirs = [_sent([e], "/query").body for e in vectors.log if e.path.endswith("/query")]
    assert ours == [
        {name: value for name, value in body.items() if name not in ("filter_string", "debug_level")} for body in theirs
    ]
    await http.close()


async def test_our_removals_and_scans_are_those_of_ai_search(workspace: DatabricksWorkspace, token: str) -> None:
    vectors = workspace.vector_search
    vectors.add_endpoint(ENDPOINT)
    vectors.add_index(INDEX, ENDPOINT, DatabricksIndexSchemas.get_schema("unified"), DIMENSION)
    repository, http = _ours(workspace, token)
    await repository.upsert(INDEX, KEY, _records()[:3], "m")
    keys = [KEY.stored_id("r0"), KEY.stored_id("r1")]
    vectors.clear_log()
    await repository.delete_records(INDEX, keys)
    ours = _sent(vectors.log, "/delete-data")
    vectors.clear_log()
    client: Any = AISearchClient(workspace_url=workspace.url, personal_access_token=token, disable_notice=True)
    index = client.get_index(ENDPOINT, INDEX)
    index.delete(keys)
    assert _sent(vectors.log, "/delete-data") == ours
    scanned = [row async for page, _ in repository.scan(INDEX, OWNER) for row in page]
    theirs = index.scan(10)
    assert len(scanned) == len(theirs["data"]) == 1
    assert scanned[0]["content"] == "text 2"
    await http.close()
