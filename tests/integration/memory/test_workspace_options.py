"""What a workspace can do beyond vectors: its reranking model, its bound on scores, endpoints made for a rate."""

from typing import Any

import grpc
import pytest

from coxswain.memory.v1 import memory_backend_pb2 as backend_pb
from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import vector_index_pb2 as index_pb
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.scores import ScoreFormula, ScoreMeasure
from services.memory.domain.vectors import unit_vector
from services.memory.stores.databricks.endpoint_types import EndpointTypes, Location
from services.memory.stores.databricks.recent_writes import RecentWrites
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from tests.integration.auth.support import refused
from tests.integration.memory.databricks_parts import (
    ENDPOINT,
    INDEX,
    KEY,
    OWNER,
    emulator,
    open_repository,
    workspace_client,
)
from tests.integration.memory.databricks_support import (
    World,
    backend_message,
    backends_stub,
    indexes_stub,
    make_indexes,
    use_workspace,
)
from tests.integration.memory.store_model import NOW
from tests.integration.memory.support import DIMENSION, place, stub, unified
from tests.integration.memory.test_indexes_of_others import follow, foreign
from tests.support.harness import ALICE, BOB, Harness
from tests.support.text_vectors import embed_text

CODE = grpc.StatusCode
QUESTION = "when does the harbour close"


def _search(**fields: Any) -> pb.SearchRecordsRequest:
    fields.setdefault("reranking", pb.Reranking())
    return pb.SearchRecordsRequest(namespace=place(), text=QUESTION, **fields)


def _ids(response: pb.SearchRecordsResponse) -> list[str]:
    return [result.record.id for result in response.results]


async def _fill(memories: Any) -> None:
    records = [
        unified("the harbour is where boats lie when a storm does close in", "about"),
        unified("when does the harbour close at ten", "answer", scope="/c"),
        unified("a note", "scoped", scope="/when/does/the/harbour/close"),
        *(unified(f"nothing of it {n}", f"other{n}") for n in range(60)),
    ]
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))


@pytest.mark.parametrize("mode", ["VECTOR", "HYBRID", "TEXT"])
async def test_a_model_puts_the_best_results_in_order(world: World, mode: str) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE, BOB)
    memories, others = stub(world.harness.channel()), stub(world.harness.channel(BOB))
    await _fill(memories)
    await others.SaveRecords(
        pb.SaveRecordsRequest(namespace=place(), records=[unified(f"{QUESTION} of others", "theirs")])
    )
    asked = {"mode": pb.SearchMode.Value(f"SEARCH_MODE_{mode}")}
    world.vectors.clear_log()
    response = await memories.SearchRecords(_search(limit=50, **asked))
    found = _ids(response)
    assert found[0] == "answer"
    assert "theirs" not in found
    # The same results as without it, in another order; scores say the place.
    plain = _ids(await memories.SearchRecords(_search(limit=50, reranking=None, **asked)))
    assert sorted(found) == sorted(plain)
    assert [result.score for result in response.results] == pytest.approx([1 - n / 50 for n in range(len(found))])
    if mode != "TEXT":
        assert any(result.similarity for result in response.results)
    [reranked] = [entry for entry in world.vectors.log if isinstance(entry.body, dict) and "reranker" in entry.body]
    assert isinstance(reranked.body, dict)
    assert reranked.body["columns"] == ["group_id", "crew_id", "id"]
    # Pages continue each other and end with the fiftieth.
    paged, token = list[str](), ""
    for _ in range(60):
        page = await memories.SearchRecords(_search(limit=20, page_token=token, **asked))
        paged += _ids(page)
        token = page.next_page_token
        if not token:
            break
    assert paged == found
    if mode == "TEXT":
        return
    scoped = _ids(await memories.SearchRecords(_search(limit=50, reranking=pb.Reranking(columns=["scope"]), **asked)))
    assert sorted(scoped) == sorted(found)
    if "scoped" in scoped:
        assert scoped[0] == "scoped"


async def test_rows_of_others_are_not_reranked_whatever_the_workspace_returns() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            repository = open_repository(client, vectors.url)
            records = [Record(f"r{n}", Unified(f"text {n}"), unit_vector([1, 0, 0]), created_at=NOW) for n in range(3)]
            others = NamespaceKey("legal", "a", MemoryKind.UNIFIED)
            await repository.upsert(INDEX, KEY, records, "m")
            await repository.upsert(INDEX, others, records, "m")
            mine = [KEY.stored_id(record.id) for record in records]
            theirs = [others.stored_id(record.id) for record in records]
            # Ids of other groups may be asked for: the owner's clauses leave them out, and they come last, unread.
            order = await repository.searches.reranked(INDEX, OWNER, "text 2", ["content"], [*theirs, *mine])
            assert order == [mine[2], *[key for key in sorted(mine) if key != mine[2]], *theirs]
            assert await repository.searches.reranked(INDEX, OWNER, "text", ["content"], []) == []
            unsafe = "it's"
            assert unsafe in await repository.searches.reranked(INDEX, OWNER, "text", ["content"], [unsafe, *mine])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"ranking": pb.Ranking(recency_weight=1)}, "ranking"),
        ({"diversity": 0.5}, "diversity"),
        ({"limit": 51}, "limit"),
        ({"reranking": pb.Reranking(columns=["content", "group_id"])}, "reranking.columns[1]"),
        ({"reranking": pb.Reranking(columns=["metadata"])}, "reranking.columns[0]"),
        ({"reranking": pb.Reranking(columns=["embedding"])}, "reranking.columns[0]"),
    ],
)
async def test_what_does_not_fit_a_reranked_search_is_refused(
    memory: Harness, fields: dict[str, Any], field: str
) -> None:
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub(memory.channel()).SearchRecords(_search(**fields))
    assert refusal.fields == [field]


async def test_a_store_without_a_model_says_so(memory: Harness) -> None:
    memories = stub(memory.channel())
    with refused(CODE.FAILED_PRECONDITION, "INVALID_FIELD") as refusal:
        await memories.SearchRecords(_search())
    assert "Databricks" in refusal.message
    vector = pb.SearchRecordsRequest(namespace=place(), vector=pb.Vector(values=[1]), reranking=pb.Reranking())
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await memories.SearchRecords(vector)
    assert refusal.fields == ["vector"]


async def test_an_index_that_follows_a_table_is_searched_in_every_way_and_only_for_its_group(world: World) -> None:
    texts = {"answer": QUESTION, "other": "nothing of it"}
    rows = [
        foreign("unified", f"{group}-{name}", group_id=group, content=content, embedding=embed_text(content, DIMENSION))
        for group in ("sales", "legal")
        for name, content in texts.items()
    ]
    follow(world.vectors, *rows)
    await use_workspace(world.harness, world.url, ALICE, BOB)
    for bearer, group in ((ALICE, "sales"), (BOB, "legal")):
        memories = stub(world.harness.channel(bearer))
        for mode in ("VECTOR", "HYBRID", "TEXT"):
            for reranking in (None, pb.Reranking(), pb.Reranking(columns=["content", "scope"])):
                asked = {"mode": pb.SearchMode.Value(f"SEARCH_MODE_{mode}"), "reranking": reranking}
                found = _ids(await memories.SearchRecords(_search(limit=50, **asked)))
                assert found[0] == f"{group}-answer", (mode, reranking)
                assert {record_id.partition("-")[0] for record_id in found} == {group}


# A bound on scores


@pytest.mark.parametrize("formula", ScoreFormula)
async def test_a_bound_on_scores_changes_no_result_and_fewer_rows_travel(formula: ScoreFormula) -> None:
    with emulator() as vectors:
        vectors.behaviour.score = formula.value
        async with workspace_client() as client:
            vector = unit_vector([1, 0, 0])
            records = [
                Record(f"r{n}", Unified(f"t {n}"), unit_vector([1, n / 10, 0]), created_at=NOW) for n in range(40)
            ]
            await open_repository(client, vectors.url).upsert(INDEX, KEY, records, "m")
            travelled = []
            for bounds in (False, True):
                repository = DatabricksVectorIndexRepository(
                    client,
                    Location(vectors.url, ENDPOINT),
                    EndpointTypes(),
                    RecentWrites(0),
                    ScoreMeasure(formula, bounds),
                )
                results = []
                vectors.clear_log()
                for least in (-1.0, 0.0, 0.5, records[4].embedding[0], 0.99, 1.0):  # type: ignore[index]
                    found = await repository.searches.similarity_search(
                        INDEX, OWNER, vector, EVERYTHING, 30, NOW, embeddings=False, min_score=float(least)
                    )
                    results.append([hit.record.id for hit in found.hits])
                travelled.append(
                    (
                        results,
                        sum(
                            entry.body.get("score_threshold", 0) > 0
                            for entry in vectors.log
                            if isinstance(entry.body, dict)
                        ),
                    )
                )
            (plain, none), (bounded, some) = travelled
            assert plain == bounded
            assert plain[-1] == ["r0"]
            assert none == 0
            assert some >= 4


@pytest.mark.parametrize("ignores", [False, True])
async def test_verify_finds_out_whether_the_workspace_bounds_scores(world: World, ignores: bool) -> None:
    make_indexes(world.vectors)
    (backend_id,) = await use_workspace(world.harness, world.url, ALICE)
    world.vectors.behaviour.ignores_threshold = ignores
    memories = stub(world.harness.channel())
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("storm", "a")]))
    request = pb.SearchRecordsRequest(namespace=place(), text="storm", min_score=0.5)

    async def bounded() -> bool:
        world.vectors.clear_log()
        assert _ids(await memories.SearchRecords(request)) == ["a"]
        [query] = [entry.body for entry in world.vectors.requests(path="/query")]
        assert isinstance(query, dict)
        return "score_threshold" in query

    assert not await bounded()
    verify = backend_pb.VerifyMemoryBackendRequest(id=backend_id)
    checks = (await backends_stub(world.harness).VerifyMemoryBackend(verify)).checks
    [finding] = [check.finding for check in checks if check.subject == "scores"]
    assert ("does not bound" in finding) is ignores
    assert await bounded() is not ignores


# Endpoints made for a rate


async def test_only_standard_endpoints_are_made_for_a_rate(world: World) -> None:
    backends, indexes = backends_stub(world.harness), indexes_stub(world.harness)
    create = backend_pb.CreateMemoryBackendRequest(backend=backend_message(world.url, target_qps=20))
    backend = (await backends.CreateMemoryBackend(create)).backend
    request = index_pb.CreateEndpointRequest(backend_id=backend.id, type=index_pb.ENDPOINT_TYPE_STORAGE_OPTIMIZED)
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await indexes.CreateEndpoint(request)
    assert refusal.fields == ["type"]
    assert "target_qps" in refusal.message
    assert not world.vectors.requests(method="POST")
    request.type = index_pb.ENDPOINT_TYPE_STANDARD
    await indexes.CreateEndpoint(request)
    [made] = world.vectors.requests(method="POST", path="/endpoints")
    assert made.body == {"name": ENDPOINT, "endpoint_type": "STANDARD", "target_qps": 20}
