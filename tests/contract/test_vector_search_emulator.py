"""The Vector Search emulator on the wire: what the service does slowly, wrong, or only for some."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.support.databricks_http import ApiFault, Caller
from tests.support.vector_search_emulator import API, VectorSearchEmulator

INDEX = "main.memory.rows"
BASE = f"/indexes/{INDEX}"
SCHEMA = {"id": "string", "group_id": "string", "age": "int", "embedding": "array<float>"}


class Wire:
    """Requests to an emulator, as (status, JSON)."""

    def __init__(self, vectors: VectorSearchEmulator, session: aiohttp.ClientSession) -> None:
        self.vectors = vectors
        self.session = session

    async def send(self, method: str, path: str, body: Any = None, *, token: str = "t") -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.session.request(method, self.vectors.url + API + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def upsert(self, *rows: Any, token: str = "t") -> tuple[int, Any]:
        return await self.send("POST", f"{BASE}/upsert-data", {"inputs_json": json.dumps(rows)}, token=token)

    async def query(self, **body: Any) -> tuple[int, Any]:
        return await self.send("POST", f"{BASE}/query", {"columns": ["id"], "query_vector": [0, 0]} | body)

    async def found(self, **body: Any) -> list[str]:
        status, answer = await self.query(**body)
        assert status == 200, answer
        return [row[0] for row in answer["result"]["data_array"]]


def row(key: str, *, group: str = "g", at: float = 0.0, **columns: Any) -> dict[str, Any]:
    return {"id": key, "group_id": group, "embedding": [at, 0.0]} | columns


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with VectorSearchEmulator() as vectors, aiohttp.ClientSession() as session:
        vectors.add_endpoint("ep")
        vectors.add_index(INDEX, "ep", SCHEMA, dimension=2)
        yield Wire(vectors, session)


def create_body(name: str = "main.memory.other", **changes: Any) -> dict[str, Any]:
    spec = {
        "embedding_vector_columns": [{"name": "embedding", "embedding_dimension": 2}],
        "schema_json": json.dumps(SCHEMA),
    }
    return {
        "name": name,
        "endpoint_name": "ep",
        "index_type": "DIRECT_ACCESS",
        "primary_key": "id",
        "direct_access_index_spec": spec,
    } | changes


async def test_endpoints_and_indexes_arrive_after_as_many_reads_as_told(wire: Wire) -> None:
    wire.vectors.behaviour.endpoint_polls = 2
    wire.vectors.behaviour.index_polls = 1
    assert (await wire.send("POST", "/endpoints", {"name": "slow"}))[1]["endpoint_status"]["state"] == "PROVISIONING"
    states = [(await wire.send("GET", "/endpoints/slow"))[1]["endpoint_status"]["state"] for _ in range(3)]
    assert states == ["PROVISIONING", "PROVISIONING", "ONLINE"]
    _, created = await wire.send("POST", "/indexes", create_body(endpoint_name="slow"))
    assert created["status"]["ready"] is False
    path = f"/indexes/{created['name']}"
    status, refused = await wire.send("POST", f"{path}/query", {"columns": ["id"], "query_vector": [0, 0]})
    assert (status, refused["error_code"]) == (400, "INVALID_STATE")
    details = [(await wire.send("GET", path))[1]["status"]["detailed_state"] for _ in range(2)]
    assert details == ["PROVISIONING", "ONLINE_DIRECT_ACCESS"]


async def test_an_index_is_refused_while_its_endpoint_is_not_online(wire: Wire) -> None:
    wire.vectors.behaviour.endpoint_polls = 5
    await wire.send("POST", "/endpoints", {"name": "slow"})
    status, body = await wire.send("POST", "/indexes", create_body(endpoint_name="slow"))
    assert (status, body["error_code"]) == (400, "INVALID_STATE")
    await wire.send("POST", "/endpoints/ep/stop")
    assert (await wire.send("GET", BASE))[1]["status"]["detailed_state"] == "OFFLINE"
    assert (await wire.upsert(row("a")))[0] == 400


async def test_a_deleted_name_reads_as_gone_but_stays_reserved(wire: Wire) -> None:
    wire.vectors.behaviour.name_reserved_for = 2
    assert await wire.send("DELETE", BASE) == (200, {})
    assert (await wire.send("GET", BASE))[0] == 404
    answers = [await wire.send("POST", "/indexes", create_body(INDEX)) for _ in range(3)]
    assert [status for status, _ in answers] == [400, 400, 200]
    assert "pending deletion" in answers[0][1]["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "two.parts"},
        {"name": "bad-name.schema.index"},
        {"primary_key": "nobody"},
        {"primary_key": "embedding"},
        {"direct_access_index_spec": None},
        {"direct_access_index_spec": {"schema_json": "{"}},
        {
            "direct_access_index_spec": {
                "embedding_vector_columns": [{"name": "embedding", "embedding_dimension": 2}],
                "schema_json": '{"id": "uuid", "embedding": "array<float>"}',
            }
        },
    ],
)
async def test_a_wrong_index_definition_is_refused(wire: Wire, changes: dict[str, Any]) -> None:
    status, body = await wire.send("POST", "/indexes", create_body(**changes))
    assert (status, body["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


async def test_names_are_unique_and_an_endpoint_holds_fifty_indexes(wire: Wire) -> None:
    assert (await wire.send("POST", "/endpoints", {"name": "ep"}))[0] == 409
    assert (await wire.send("POST", "/indexes", create_body(INDEX)))[0] == 409
    statuses = [(await wire.send("POST", "/indexes", create_body(f"a.b.c{number}")))[0] for number in range(49)]
    status, body = await wire.send("POST", "/indexes", create_body("a.b.last"))
    assert statuses == [200] * 49
    assert (status, body["error_code"]) == (400, "QUOTA_EXCEEDED")
    assert (await wire.send("DELETE", "/endpoints/ep"))[1]["error_code"] == "INVALID_STATE"


async def test_lists_come_in_pages(wire: Wire) -> None:
    wire.vectors.behaviour.list_rows = 2
    for number in range(4):
        await wire.send("POST", "/indexes", create_body(f"a.b.c{number}"))
    names: list[str] = []
    token = ""
    while True:
        _, page = await wire.send("GET", f"/indexes?endpoint_name=ep&page_token={token}")
        names += [entry["name"] for entry in page["vector_indexes"]]
        token = page.get("next_page_token")
        if not token:
            break
    assert names == ["a.b.c0", "a.b.c1", "a.b.c2", "a.b.c3", INDEX]
    assert "status" not in page["vector_indexes"][0]


async def test_rows_that_do_not_fit_their_schema_fail_alone(wire: Wire) -> None:
    bad = [
        row("text-age", age="3"),
        row("short") | {"embedding": [1.0]},
        row("none") | {"embedding": None},
        row("huge") | {"embedding": [1e39, 0]},
    ]
    status, body = await wire.upsert(row("good"), *bad)
    assert (status, body["status"]) == (200, "PARTIAL_SUCCESS")
    failed = ["text-age", "short", "none", "huge"]
    assert body["result"] == {"success_row_count": 1, "failed_primary_keys": failed}
    assert (await wire.upsert(*bad))[1]["status"] == "FAILURE"
    assert [held["id"] for held in wire.vectors.rows(INDEX)] == ["good"]


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        [],
        "no json",
        "[]",
        "{}",
        "[1]",
        '[{"group_id": "g"}]',
        '[{"id": 3}]',
        '[{"id": "a", "extra": 1}]',
        '[{"id": "a", "embedding": [NaN, 0]}]',
    ],
)
async def test_an_upsert_that_is_no_list_of_rows_is_refused_whole(wire: Wire, inputs: Any) -> None:
    status, body = await wire.send("POST", f"{BASE}/upsert-data", {"inputs_json": inputs})
    assert (status, body["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


async def test_writes_of_rejected_keys_fail_as_often_as_told(wire: Wire) -> None:
    wire.vectors.behaviour.rejected_keys = {"b": 1}
    assert (await wire.upsert(row("a"), row("b")))[1]["result"]["failed_primary_keys"] == ["b"]
    assert (await wire.upsert(row("b")))[1]["status"] == "SUCCESS"


async def test_deletes_take_keys_from_the_body_and_from_the_query(wire: Wire) -> None:
    await wire.upsert(row("a"), row("b"), row("c"), row("d"))
    _, body = await wire.send("DELETE", f"{BASE}/delete-data", {"primary_keys": ["a", "unknown"]})
    assert body == {"status": "SUCCESS", "result": {"success_row_count": 2}}
    await wire.send("DELETE", f"{BASE}/delete-data?primary_keys=b&primary_keys=c")
    assert await wire.found() == ["d"]
    assert (await wire.send("DELETE", f"{BASE}/delete-data"))[0] == 400
    assert (await wire.send("DELETE", f"{BASE}/delete-data", {"primary_keys": []}))[0] == 400


async def test_queries_are_paged_by_a_thousand_up_to_ten_thousand(wire: Wire) -> None:
    await wire.upsert(*(row(f"{number:05}", at=float(number)) for number in range(2300)))
    sizes, keys = [], []
    _, page = await wire.query(num_results=10_000)
    while True:
        sizes.append(page["result"]["row_count"])
        keys += [cells[0] for cells in page["result"]["data_array"]]
        if not page.get("next_page_token"):
            break
        token = page["next_page_token"]
        _, page = await wire.send("GET", f"{BASE}/query-next-page", {"page_token": token, "endpoint_name": "ep"})
    assert sizes == [1000, 1000, 300]
    assert keys == [f"{number:05}" for number in range(2300)]
    assert (await wire.query(num_results=10_001))[0] == 400
    assert (await wire.query(num_results=0))[0] == 400
    assert (await wire.send("POST", f"{BASE}/query-next-page", {"page_token": "forged"}))[0] == 400


async def test_the_score_trails_and_falls_with_the_squared_distance(wire: Wire) -> None:
    await wire.upsert(row("here"), row("there", at=2.0))
    _, body = await wire.query(columns=["group_id", "id"])
    assert [column["name"] for column in body["manifest"]["columns"]] == ["group_id", "id", "score"]
    assert body["result"]["data_array"] == [["g", "here", 1.0], ["g", "there", pytest.approx(0.2)]]
    assert await wire.found(score_threshold=0.5) == ["here"]


async def test_filters_are_read_in_the_language_of_the_endpoint_type(wire: Wire) -> None:
    wire.vectors.add_endpoint("big", "STORAGE_OPTIMIZED")
    wire.vectors.add_index("a.b.big", "big", SCHEMA, dimension=2)
    rows = json.dumps([row("1", group="x"), row("2", group="y")])
    query: dict[str, Any] = {"columns": ["id"], "query_vector": [0, 0]}
    as_dict, as_text = {"filters_json": '{"group_id": "y"}'}, {"filter_string": "group_id = 'y'"}
    for path, right, wrong in ((BASE, as_dict, as_text), ("/indexes/a.b.big", as_text, as_dict)):
        await wire.send("POST", f"{path}/upsert-data", {"inputs_json": rows})
        _, body = await wire.send("POST", f"{path}/query", query | right)
        assert [cells[0] for cells in body["result"]["data_array"]] == ["2"]
        status, body = await wire.send("POST", f"{path}/query", query | wrong)
        assert (status, body["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert (await wire.query(filters_json={"group_id": "y"}))[0] == 400
    assert (await wire.query(filters_json='{"nobody": "y"}'))[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        {"columns": []},
        {"columns": ["nobody"]},
        {"query_vector": [0]},
        {"query_vector": ["0", "0"]},
        {"query_vector": [float("nan"), 0]},
        {"query_vector": None, "query_text": "words"},
        {"query_type": "HYBRID"},
        {"query_type": "GUESS"},
    ],
)
async def test_a_query_that_cannot_be_answered_is_refused(wire: Wire, body: dict[str, Any]) -> None:
    assert (await wire.query(**body))[0] == 400


@pytest.mark.parametrize(
    "unmodelled", [{"facets": ["age"]}, {"sort_columns": ["age ASC"]}, {"columns_to_rerank": ["group"]}]
)
async def test_what_is_not_modelled_is_refused_rather_than_ignored(wire: Wire, unmodelled: dict[str, Any]) -> None:
    status, body = await wire.query(**unmodelled)
    assert (status, body["error_code"]) == (501, "NOT_IMPLEMENTED")


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("SQUARED_DISTANCE", [1.0, 1 / 3]),
        ("DISTANCE", [1.0, 1 / (1 + 2**0.5)]),
        ("COSINE", [1.0, 0.0]),
        ("SHIFTED_COSINE", [1.0, 0.5]),
    ],
)
async def test_scores_are_computed_as_told(wire: Wire, score: Any, expected: list[float]) -> None:
    wire.vectors.behaviour.score = score
    await wire.upsert(row("a") | {"embedding": [1.0, 0.0]}, row("b") | {"embedding": [0.0, 1.0]})
    _, answer = await wire.query(columns=["id"], query_vector=[1.0, 0.0], num_results=2)
    assert [values[-1] for values in answer["result"]["data_array"]] == pytest.approx(expected)


async def test_a_delta_sync_index_follows_its_table_and_is_not_written_to(wire: Wire) -> None:
    rows = [row("a"), row("b")]
    wire.vectors.add_table("main.memory.source", SCHEMA, 2, rows[:1])
    spec = {
        "source_table": "main.memory.source",
        "pipeline_type": "TRIGGERED",
        "embedding_vector_columns": [{"name": "embedding", "embedding_dimension": 2}],
    }
    body = {"name": "main.memory.followed", "index_type": "DELTA_SYNC", "primary_key": "id", "endpoint_name": "ep"}
    assert (await wire.send("POST", "/indexes", body | {"delta_sync_index_spec": spec}))[0] == 200
    _, info = await wire.send("GET", "/indexes/main.memory.followed")
    assert (info["index_type"], info["delta_sync_index_spec"], info["status"]["ready"]) == ("DELTA_SYNC", spec, True)
    path = "/indexes/main.memory.followed"
    for method, action, what in (
        ("POST", "upsert-data", {"inputs_json": json.dumps(rows)}),
        ("DELETE", "delete-data", {"primary_keys": ["a"]}),
    ):
        assert (await wire.send(method, f"{path}/{action}", what))[0] == 400
    wire.vectors.add_table("main.memory.source", SCHEMA, 2, rows)
    query = {"columns": ["id"], "query_vector": [0.0, 0.0], "num_results": 9}
    for found in (["a"], ["a", "b"]):
        _, answer = await wire.send("POST", f"{path}/query", query)
        assert [values[0] for values in answer["result"]["data_array"]] == found
        assert (await wire.send("POST", f"{path}/sync"))[0] == 200


async def test_hybrid_queries_take_text_beside_the_vector_and_give_at_most_two_hundred(wire: Wire) -> None:
    await wire.upsert(*(row(f"{number}", group="storm") for number in range(300)))
    assert len(await wire.found(query_type="HYBRID", query_text="storm", num_results=1000)) == 200


def reranker(*columns: Any, **changes: Any) -> dict[str, Any]:
    return {"model": "databricks_reranker", "parameters": {"columns_to_rerank": list(columns)}} | changes


async def test_a_reranker_orders_the_best_fifty_and_returns_as_many_as_are_asked_for(wire: Wire) -> None:
    await wire.upsert(*(row(f"{n:03}", group="calm", at=float(n)) for n in range(60)))
    await wire.upsert(row("049", group="storm", at=49.0), row("055", group="storm", at=55.0))
    asked = {"query_text": "storm", "reranker": reranker("group_id")}
    assert await wire.found(**asked, num_results=2) == ["049", "000"]
    assert len(await wire.found(**asked, num_results=100)) == 50
    assert (await wire.found(query_text="storm", num_results=2))[0] == "000"


@pytest.mark.parametrize(
    "body",
    [
        {"reranker": reranker("group_id")},
        {"query_text": "a", "reranker": reranker()},
        {"query_text": "a", "reranker": reranker("nobody")},
        {"query_text": "a", "reranker": reranker("age")},
        {"query_text": "a", "reranker": reranker("group_id", model="m")},
        {"query_text": "a", "reranker": reranker("group_id", model_type="MODEL_TYPE_FINETUNED")},
        {"query_text": "a", "reranker": ["group_id"]},
        {"query_text": "a", "reranker": reranker("group_id"), "num_results": 0},
        {"score_threshold": "high"},
    ],
)
async def test_a_reranker_or_threshold_that_cannot_be_used_is_refused(wire: Wire, body: dict[str, Any]) -> None:
    await wire.upsert(row("a", age=1))
    assert (await wire.query(**body))[0] == 400


async def test_a_threshold_leaves_out_what_has_a_lower_score(wire: Wire) -> None:
    await wire.upsert(row("a"), row("b", at=1.0), row("c", at=2.0))
    assert await wire.found(score_threshold=0.5) == ["a", "b"]
    wire.vectors.behaviour.ignores_threshold = True
    assert await wire.found(score_threshold=0.5) == ["a", "b", "c"]


@pytest.mark.parametrize("target", [0, -2, 1.0, 2.5, "9", True])
async def test_endpoints_are_made_for_a_whole_number_of_queries(wire: Wire, target: Any) -> None:
    assert (await wire.send("POST", "/endpoints", {"name": "fast", "target_qps": target}))[0] == 400
    large = {"name": "large", "endpoint_type": "STORAGE_OPTIMIZED", "target_qps": 9}
    assert (await wire.send("POST", "/endpoints", large))[0] == 400
    _, made = await wire.send("POST", "/endpoints", {"name": "fast", "target_qps": 9})
    assert made["scaling_info"] == {"requested_target_qps": 9}
    assert (await wire.send("PATCH", "/endpoints/fast", {"target_qps": target}))[0] == 400
    _, changed = await wire.send("PATCH", "/endpoints/fast", {"target_qps": -1})
    assert "scaling_info" not in changed["endpoint"]


async def test_scan_walks_by_key_after_the_last_one(wire: Wire) -> None:
    wire.vectors.behaviour.max_scan_rows = 2
    await wire.upsert(*(row(key, age=1) for key in "cabde"))
    keys: list[str] = []
    body: dict[str, Any] = {"num_results": 100}
    while True:
        _, page = await wire.send("POST", f"{BASE}/scan", body)
        if not page["data"]:
            break
        for held in page["data"]:
            cells = {entry["key"]: entry["value"] for entry in held["fields"]}
            assert cells["age"] == {"number_value": 1}
            keys.append(cells["id"]["string_value"])
        body["last_primary_key"] = page["last_primary_key"]
    assert keys == list("abcde")


async def test_writes_are_seen_after_as_many_reads_as_told_and_in_order(wire: Wire) -> None:
    wire.vectors.behaviour.visible_after = 2
    await wire.upsert(row("a"))
    await wire.send("DELETE", f"{BASE}/delete-data", {"primary_keys": ["a"]})
    await wire.upsert(row("b"))
    assert [await wire.found() for _ in range(4)] == [[], [], ["b"], ["b"]]
    await wire.upsert(row("c"))
    counts = [(await wire.send("GET", BASE))[1]["status"]["indexed_row_count"] for _ in range(3)]
    assert counts == [1, 1, 2]


async def test_answers_come_in_camel_case_on_demand_but_keep_the_names_of_columns(wire: Wire) -> None:
    wire.vectors.behaviour.camel_case = True
    wire.vectors.behaviour.page_rows = 1
    assert (await wire.upsert(row("a"), row("b")))[1]["result"] == {"successRowCount": 2}
    _, body = await wire.query(columns=["group_id"])
    assert body["manifest"]["columns"][0]["name"] == "group_id"
    assert body["result"]["rowCount"] == 1
    assert body["nextPageToken"]
    _, scanned = await wire.send("POST", f"{BASE}/scan", {"num_results": 1})
    assert scanned["lastPrimaryKey"] == "a"


async def test_faults_bring_their_status_retry_after_and_code(wire: Wire) -> None:
    wire.vectors.fail(ApiFault(path="/query", status=429, retry_after="2"))
    wire.vectors.fail(ApiFault(path="/query", status=403, error_code=403, message="Invalid access token."))
    url = f"{wire.vectors.url}{API}{BASE}/query"
    async with wire.session.post(url, json={}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
        assert (await answer.json())["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    assert (await wire.query())[1] == {"error_code": 403, "message": "Invalid access token."}
    wire.vectors.integer_error_codes = True
    assert (await wire.query(columns=["nobody"]))[1]["error_code"] == 400


async def test_a_fault_after_the_effect_leaves_the_row_written(wire: Wire) -> None:
    wire.vectors.fail(ApiFault(path="/upsert-data", status=504, after_effect=True))
    assert (await wire.upsert(row("a")))[0] == 504
    assert await wire.found() == ["a"]


async def test_requests_beyond_the_size_limit_are_refused(wire: Wire) -> None:
    wire.vectors.behaviour.max_request_bytes = 300
    assert (await wire.upsert(row("a")))[0] == 200
    assert (await wire.upsert(*(row(f"{number}") for number in range(10))))[0] == 413
    wire.vectors.behaviour.max_upsert_rows = 1
    assert (await wire.upsert(row("a"), row("b")))[0] == 400


async def test_each_token_may_do_what_its_scopes_and_grants_allow() -> None:
    tokens = {
        "pat": Caller("ann"),
        "obo": Caller("ann", frozenset({"vector-search"})),
        "rows": Caller("ben", frozenset({"vectorsearch.vector-search-indexes"})),
        "none": Caller("ann", frozenset({"sql"})),
    }
    async with VectorSearchEmulator(tokens=tokens) as vectors, aiohttp.ClientSession() as session:
        vectors.add_endpoint("ep")
        vectors.add_index(INDEX, "ep", SCHEMA, dimension=2)
        wire = Wire(vectors, session)

        async def statuses(path: str) -> dict[str, int]:
            return {token: (await wire.send("GET", path, token=token))[0] for token in [*tokens, "unknown"]}

        assert await statuses(BASE) == {"pat": 200, "obo": 200, "rows": 200, "none": 403, "unknown": 403}
        assert await statuses("/endpoints/ep") == {"pat": 200, "obo": 200, "rows": 403, "none": 403, "unknown": 403}
        nested = f"/endpoints/ep/indexes/{INDEX}"
        assert await statuses(nested) == {"pat": 200, "obo": 403, "rows": 403, "none": 403, "unknown": 403}
        assert "Invalid scope" in (await wire.send("GET", nested, token="obo"))[1]["message"]
        vectors.restrict(INDEX, readers={"ben"}, writers={"ann"})
        assert await statuses(BASE) == {"pat": 200, "obo": 200, "rows": 200, "none": 403, "unknown": 403}
        assert (await wire.upsert(row("a"), token="pat"))[0] == 200
        assert (await wire.upsert(row("a"), token="rows"))[0] == 403
        async with session.get(vectors.url + API + BASE) as answer:
            assert answer.status == 401


async def test_a_page_token_serves_only_the_caller_and_index_it_was_given_for() -> None:
    tokens = {"a": Caller("ann"), "b": Caller("ben")}
    async with VectorSearchEmulator(tokens=tokens) as vectors, aiohttp.ClientSession() as session:
        vectors.behaviour.page_rows = 1
        vectors.add_endpoint("ep")
        for name in (INDEX, "a.b.c"):
            vectors.add_index(name, "ep", SCHEMA, dimension=2)
        wire = Wire(vectors, session)
        await wire.upsert(row("1"), row("2"), token="a")
        query = {"columns": ["id"], "query_vector": [0, 0]}
        _, body = await wire.send("POST", f"{BASE}/query", query, token="a")
        asked = {"page_token": body["next_page_token"]}
        assert (await wire.send("POST", f"{BASE}/query-next-page", asked, token="b"))[0] == 400
        assert (await wire.send("POST", "/indexes/a.b.c/query-next-page", asked, token="a"))[0] == 400
        assert (await wire.send("POST", f"{BASE}/query-next-page", asked, token="a"))[0] == 200


async def test_behaviour_is_set_over_http_and_unknown_fields_are_refused(wire: Wire) -> None:
    url = f"{wire.vectors.url}/_ctl"
    async with wire.session.post(url, json={"visible_after": 3}) as answer:
        assert (await answer.json())["visible_after"] == 3
    async with wire.session.post(url, json={"visible_afer": 3}) as answer:
        assert answer.status == 400
    assert wire.vectors.behaviour.visible_after == 3
