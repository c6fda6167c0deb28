"""The official clients, unmodified, against the emulated workspace: what they accept is what ours is tested on."""

import asyncio
import datetime as dt
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.support.databricks_http import ApiFault
from tests.support.databricks_workspace import DatabricksWorkspace
from tests.support.llm_script import Reply

# The clients bring mlflow, which would report its use.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from databricks.ai_search.client import AISearchClient
from databricks.ai_search.exceptions import BadRequest, NotFound, PermissionDenied
from databricks.ai_search.reranker import DatabricksReranker
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from databricks.sdk.errors import NotFound as SdkNotFound
from databricks.sdk.errors import ResourceAlreadyExists
from databricks.sdk.service.vectorsearch import (
    DirectAccessVectorIndexSpec,
    EmbeddingVectorColumn,
    EndpointType,
    RerankerConfig,
    RerankerConfigRerankerParameters,
    VectorIndexType,
)

INDEX = "main.memory.rows"
SCHEMA = {"id": "string", "group_id": "string", "age": "int", "embedding": "array<float>"}
SOON = dt.timedelta(seconds=60)


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[DatabricksWorkspace]:
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none.cfg"))
    with DatabricksWorkspace() as running:
        yield running


@pytest.fixture
def pat(workspace: DatabricksWorkspace) -> str:
    return workspace.identity.add_pat(workspace.identity.add_user("ann@example.com"))


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"{n:05}", "group_id": "even" if n % 2 == 0 else "odd", "age": n, "embedding": [float(n), 0.0]}
        for n in range(count)
    ]


def ai_search(workspace: DatabricksWorkspace, **credentials: Any) -> Any:
    return AISearchClient(workspace_url=workspace.url, disable_notice=True, **credentials)


def sdk(workspace: DatabricksWorkspace, **credentials: Any) -> Any:
    config = Config(host=workspace.url, http_timeout_seconds=60, retry_timeout_seconds=5, **credentials)
    return WorkspaceClient(config=config).vector_search_indexes


def test_the_deprecated_package_is_the_same_client() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from databricks.vector_search.client import VectorSearchClient
    assert VectorSearchClient is AISearchClient


def test_ai_search_lives_a_whole_index_life(workspace: DatabricksWorkspace, pat: str) -> None:
    client = ai_search(workspace, personal_access_token=pat)
    client.create_endpoint_and_wait("ep", "STANDARD", timeout=SOON)
    assert [entry["name"] for entry in client.list_endpoints()["endpoints"]] == ["ep"]
    index = client.create_direct_access_index("ep", INDEX, "id", 2, "embedding", SCHEMA)
    index.wait_until_ready(timeout=SOON)
    assert index.upsert(rows(2300))["status"] == "SUCCESS"
    everything = index.similarity_search(
        columns=["id"], query_vector=[0.0, 0.0], num_results=10_000, disable_notice=True
    )
    assert everything["result"]["row_count"] == len(everything["result"]["data_array"]) == 2300
    filtered = index.similarity_search(
        columns=["id", "age"],
        query_vector=[0.0, 0.0],
        filters={"group_id": "odd", "age >=": 5},
        num_results=2,
        disable_notice=True,
    )
    assert [cells[:2] for cells in filtered["result"]["data_array"]] == [["00005", 5], ["00007", 7]]
    page = index.scan(2, last_primary_key="00001")
    assert page["last_primary_key"] == "00003"
    assert index.delete([f"{n:05}" for n in range(2299)])["result"]["success_row_count"] == 2299
    assert index.describe()["status"]["indexed_row_count"] == 1
    assert [entry["name"] for entry in client.list_indexes("ep")["vector_indexes"]] == [INDEX]
    client.delete_index("ep", INDEX)
    assert not client.index_exists("ep", INDEX)
    client.delete_endpoint("ep")
    with pytest.raises(NotFound):
        client.get_endpoint("ep")


def test_the_sdk_lives_a_whole_index_life(workspace: DatabricksWorkspace, pat: str) -> None:
    config = Config(host=workspace.url, token=pat, auth_type="pat", http_timeout_seconds=60)
    client = WorkspaceClient(config=config)
    endpoints: Any = client.vector_search_endpoints
    indexes: Any = client.vector_search_indexes
    endpoints.create_endpoint_and_wait("ep", EndpointType.STANDARD, timeout=SOON)
    assert [entry.name for entry in endpoints.list_endpoints()] == ["ep"]
    spec = DirectAccessVectorIndexSpec(
        embedding_vector_columns=[EmbeddingVectorColumn(name="embedding", embedding_dimension=2)],
        schema_json=json.dumps(SCHEMA),
    )
    created = indexes.create_index(INDEX, "ep", "id", VectorIndexType.DIRECT_ACCESS, direct_access_index_spec=spec)
    assert created.name == INDEX
    assert indexes.get_index(INDEX).status.ready
    with pytest.raises(ResourceAlreadyExists):
        indexes.create_index(INDEX, "ep", "id", VectorIndexType.DIRECT_ACCESS, direct_access_index_spec=spec)
    assert indexes.upsert_data_vector_index(INDEX, json.dumps(rows(1500))).result.success_row_count == 1500
    first = indexes.query_index(INDEX, ["id"], query_vector=[0.0, 0.0], num_results=1500)
    assert first.result.row_count == 1000
    second = indexes.query_next_page(INDEX, endpoint_name="ep", page_token=first.next_page_token)
    assert second.result.row_count == 500
    assert second.next_page_token is None
    found = indexes.query_index(
        INDEX, ["id"], query_vector=[3.0, 0.0], num_results=1, filters_json=json.dumps({"group_id": "even"})
    )
    assert found.result.data_array == [["00002", 0.5]]
    assert [column.name for column in found.manifest.columns] == ["id", "score"]
    scanned = indexes.scan_index(INDEX, num_results=1)
    cells = {entry.key: entry.value for entry in scanned.data[0].fields}
    assert (cells["id"].string_value, cells["age"].number_value) == ("00000", 0)
    deleted = indexes.delete_data_vector_index(INDEX, [f"{n:05}" for n in range(400)])
    assert deleted.result.success_row_count == 400
    assert indexes.get_index(INDEX).status.indexed_row_count == 1100
    assert [entry.name for entry in indexes.list_indexes("ep")] == [INDEX]
    indexes.delete_index(INDEX)
    with pytest.raises(SdkNotFound):
        indexes.get_index(INDEX)
    endpoints.delete_endpoint("ep")


@pytest.fixture
def filled(workspace: DatabricksWorkspace) -> DatabricksWorkspace:
    workspace.vector_search.add_endpoint("ep")
    workspace.vector_search.add_index(INDEX, "ep", SCHEMA, dimension=2)
    return workspace


def test_a_service_principal_reaches_rows_with_either_client(filled: DatabricksWorkspace) -> None:
    filled.identity.add_service_principal("cid", "secret")
    index = ai_search(filled, service_principal_client_id="cid", service_principal_client_secret="secret").get_index(
        "ep", INDEX
    )
    index.upsert(rows(3))
    assert len(index.scan(10)["data"]) == 3
    indexes = sdk(filled, client_id="cid", client_secret="secret", auth_type="oauth-m2m")
    assert indexes.query_index(INDEX, ["id"], query_vector=[0.0, 0.0]).result.row_count == 3
    assert {entry.caller for entry in filled.vector_search.log} == {"cid"}


def test_the_clients_rerank_bound_scores_and_choose_columns(filled: DatabricksWorkspace, pat: str) -> None:
    client = ai_search(filled, personal_access_token=pat)
    index = client.get_index("ep", INDEX)
    index.upsert(rows(3))
    ask: dict[str, Any] = {"columns": ["id"], "query_vector": [0.0, 0.0], "num_results": 3, "disable_notice": True}
    reranked = index.similarity_search(
        **ask, query_text="odd", reranker=DatabricksReranker(columns_to_rerank=["group_id"])
    )
    assert [cells[0] for cells in reranked["result"]["data_array"]] == ["00001", "00000", "00002"]
    near = index.similarity_search(**ask, score_threshold=0.4)
    assert [cells[0] for cells in near["result"]["data_array"]] == ["00000", "00001"]
    for columns, count in ((["group_id"], 1), (["id"], 0)):
        found = index.similarity_search(
            columns=["id"], query_text="odd", query_type="FULL_TEXT", query_columns=columns, disable_notice=True
        )
        assert found["result"]["row_count"] == count
    indexes = sdk(filled, token=pat, auth_type="pat")
    config = RerankerConfig("databricks_reranker", RerankerConfigRerankerParameters(["group_id"]))
    answer = indexes.query_index(
        INDEX, ["id"], query_vector=[0.0, 0.0], num_results=1, query_text="odd", reranker=config
    )
    assert answer.result.data_array[0][0] == "00001"
    answer = indexes.query_index(INDEX, ["id"], query_vector=[0.0, 0.0], score_threshold=0.4)
    assert answer.result.row_count == 2
    made = client.create_endpoint("fast", "STANDARD", target_qps=20)
    assert made["scaling_info"]["requested_target_qps"] == 20
    with pytest.raises(BadRequest, match="STANDARD"):
        client.create_endpoint("large", "STORAGE_OPTIMIZED", target_qps=20)


def test_the_async_client_reads_and_writes_rows(filled: DatabricksWorkspace, pat: str) -> None:
    async def use(index: Any) -> Any:
        async with index:
            await index.upsert(rows(3))
            found = await index.similarity_search(
                columns=["id"], query_vector=[0.0, 0.0], num_results=1, disable_notice=True
            )
            await index.delete(["00000"])
            return found, await index.scan(10)

    index = ai_search(filled, personal_access_token=pat).get_async_index("ep", INDEX)
    found, scanned = asyncio.run(use(index))
    assert found["result"]["data_array"] == [["00000", 1.0]]
    assert len(scanned["data"]) == 2


def test_tokens_on_behalf_of_a_user_fail_on_the_nested_path_and_pass_on_the_plain_one(
    filled: DatabricksWorkspace,
) -> None:
    token = filled.identity.mint(filled.identity.add_user("ann@example.com"), scopes={"vector-search"})
    client = ai_search(filled, personal_access_token=token)
    with pytest.raises(PermissionDenied, match="Invalid scope"):
        client.get_index("ep", INDEX)
    assert client.get_index(index_name=INDEX).upsert(rows(1))["status"] == "SUCCESS"


def test_the_clients_read_camel_case_and_raise_their_own_errors(filled: DatabricksWorkspace, pat: str) -> None:
    index = ai_search(filled, personal_access_token=pat).get_index("ep", INDEX)
    index.upsert(rows(1200))
    filled.vector_search.behaviour.camel_case = True
    found = index.similarity_search(columns=["id"], query_vector=[0.0, 0.0], num_results=1200, disable_notice=True)
    assert found["result"]["row_count"] == 1200
    with pytest.raises(BadRequest, match="dimensions"):
        index.similarity_search(columns=["id"], query_vector=[0.0], disable_notice=True)
    with pytest.raises(BadRequest, match="filter_string"):
        index.similarity_search(
            columns=["id"], query_vector=[0.0, 0.0], filters="group_id = 'odd'", disable_notice=True
        )


def test_the_clients_wait_out_a_busy_service(filled: DatabricksWorkspace, pat: str) -> None:
    busy = ApiFault(path="/query", status=429, retry_after="0")
    filled.vector_search.fail(busy)
    index = ai_search(filled, personal_access_token=pat).get_index("ep", INDEX)
    index.similarity_search(columns=["id"], query_vector=[0.0, 0.0], disable_notice=True)
    filled.vector_search.fail(busy)
    sdk(filled, token=pat, auth_type="pat").query_index(INDEX, ["id"], query_vector=[0.0, 0.0])
    statuses = [entry.status for entry in filled.vector_search.requests(path="/query")]
    assert statuses == [429, 200] * 2
    filled.vector_search.fail(ApiFault(path="/query", status=429))
    # Its own TooManyRequests is never reached: the transport below it gives up first.
    with pytest.raises(requests.exceptions.RetryError):
        index.similarity_search(columns=["id"], query_vector=[0.0, 0.0], disable_notice=True, total_retries=0)


LITELLM = """
import litellm
litellm.suppress_debug_info = True
base = {"api_base": f"{URL}/serving-endpoints", "api_key": TOKEN}
chat = {"model": "databricks/chat", "messages": [{"role": "user", "content": "hello"}], **base}
print(litellm.completion(**chat).choices[0].message.content)
chunks = litellm.completion(**chat, stream=True)
print("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
print(len(litellm.embedding(model="databricks/embed", input=["a"], **base).data[0]["embedding"]))
try:
    litellm.completion(**{**chat, "api_key": "wrong"}, num_retries=0)
except Exception as error:
    print(type(error).__name__)
"""


def test_litellm_chats_streams_and_embeds_through_the_serving_endpoints(
    workspace: DatabricksWorkspace, pat: str, tmp_path: Any
) -> None:
    workspace.llm.on(Reply(text="good morning"), contains="hello")
    program = f"URL, TOKEN = {workspace.url!r}, {pat!r}\n{LITELLM}"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DO_NOT_TRACK": "true",
    }
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.stdout.splitlines() == ["good morning", "good morning", "256", "PermissionDeniedError"], run.stderr
    assert [call.bearer for call in workspace.llm.calls] == [pat, pat, pat, "wrong"]
