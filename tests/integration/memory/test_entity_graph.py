"""TraverseEntities: relationships as a graph, on the default store and in a workspace."""

import random
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.memory.v1 import memory_backend_pb2 as backend_pb
from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from services.memory.settings import MemorySettings
from services.memory.usecases import entity_graph
from tests.integration.auth.support import refused
from tests.integration.memory.databricks_support import backends_stub, index_name, make_indexes, use_workspace
from tests.integration.memory.support import EmbeddingModels, serve_memory, stub
from tests.support.harness import ALICE, BOB, Harness
from tests.support.vector_search_emulator import VectorSearchEmulator

Served = tuple[Harness, EmbeddingModels]
ENTITIES = pb.Namespace(memory_id="crew", kind=record_pb2.MEMORY_KIND_ENTITY)


def entity(name: str, *relationships: tuple[str, str]) -> record_pb2.Record:
    return record_pb2.Record(
        id=f"id-{name}",
        entity=record_pb2.EntityRecord(
            entity_name=name,
            description=f"{name} is known",
            relationships=[record_pb2.Relationship(relation=r, target=t) for r, t in relationships],
        ),
    )


async def saved(harness: Harness) -> Any:
    memories = stub(harness.channel())
    records = [
        entity("Ann", ("works_for", "Acme"), ("knows", "Bob")),
        entity("Bob", ("knows", "Ann"), ("works_for", "Acme")),
        entity("Acme", ("based_in", "Basel")),
        entity("Basel", ("lies_on", "Rhine")),
    ]
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=ENTITIES, records=records))
    return memories


async def test_relationships_are_followed_breadth_first_through_cycles(served: Served) -> None:
    memories = await saved(served[0])
    graph = await memories.TraverseEntities(pb.TraverseEntitiesRequest(namespace=ENTITIES, start="Ann", max_depth=3))
    depths = {node.entity_name: node.depth for node in graph.entities}
    assert depths == {"Ann": 0, "Acme": 1, "Bob": 1, "Basel": 2, "Rhine": 3}
    assert [node.depth for node in graph.entities] == sorted(depths.values())
    known = {node.entity_name: [r.entity.description for r in node.records] for node in graph.entities}
    assert known["Acme"] == ["Acme is known"]
    assert known["Rhine"] == [], "only mentioned"
    assert {(e.source, e.relation, e.target) for e in graph.edges} == {
        ("Ann", "works_for", "Acme"),
        ("Ann", "knows", "Bob"),
        ("Bob", "knows", "Ann"),
        ("Bob", "works_for", "Acme"),
        ("Acme", "based_in", "Basel"),
        ("Basel", "lies_on", "Rhine"),
    }
    assert not graph.truncated


async def test_depth_relations_and_limit_bound_what_is_followed(served: Served) -> None:
    memories = await saved(served[0])

    async def names(**fields: object) -> tuple[list[str], bool]:
        request = pb.TraverseEntitiesRequest(namespace=ENTITIES, start="Ann", **fields)  # type: ignore[arg-type]
        graph = await memories.TraverseEntities(request)
        return [node.entity_name for node in graph.entities], graph.truncated

    assert await names(max_depth=1) == (["Ann", "Acme", "Bob"], False)
    assert await names() == (["Ann", "Acme", "Bob", "Basel"], False)
    assert await names(relations=["knows"], max_depth=8) == (["Ann", "Bob"], False)
    assert await names(limit=2, max_depth=8) == (["Ann", "Acme"], True)


async def test_nothing_is_found_elsewhere_and_wrong_questions_are_refused(served: Served) -> None:
    harness, _ = served
    await saved(harness)
    request = pb.TraverseEntitiesRequest(namespace=ENTITIES, start="Ann")
    foreign = stub(harness.channel(BOB))
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await foreign.TraverseEntities(request)
    unified = pb.Namespace(memory_id="crew", kind=record_pb2.MEMORY_KIND_UNIFIED)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await stub(harness.channel()).TraverseEntities(pb.TraverseEntitiesRequest(namespace=unified, start="Ann"))


async def test_what_does_not_fit_a_message_is_left_out_and_told(memory: Harness) -> None:
    memories = await saved(memory)
    for number in range(6):
        story = entity("Acme", ("based_in", "Basel"))
        story.id, story.entity.description = f"story-{number}", "x" * 1_000_000
        await memories.SaveRecords(pb.SaveRecordsRequest(namespace=ENTITIES, records=[story]))
    graph = await memories.TraverseEntities(pb.TraverseEntitiesRequest(namespace=ENTITIES, start="Ann", max_depth=3))
    assert graph.truncated
    assert graph.ByteSize() <= 4 * 1024 * 1024
    known = {node.entity_name: [record.id for record in node.records] for node in graph.entities}
    assert known["Ann"] == ["id-Ann"]
    assert known["Acme"] == [f"story-{number}" for number in (5, 4, 3, 2)]
    # The shape of the graph is whole all the same.
    assert {(e.source, e.target) for e in graph.edges} >= {("Acme", "Basel"), ("Basel", "Rhine")}
    assert set(known) == {"Ann", "Acme", "Bob", "Basel", "Rhine"}


async def test_what_is_too_much_to_be_read_of_one_depth_is_told(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    memories = await saved(served[0])
    monkeypatch.setattr(entity_graph, "_RECORDS_IN_STEP", 1)
    graph = await memories.TraverseEntities(pb.TraverseEntitiesRequest(namespace=ENTITIES, start="Ann", max_depth=1))
    assert [len(node.records) for node in graph.entities if node.entity_name != "Ann"] in ([1, 0], [0, 1])
    assert graph.truncated


@dataclass
class Workspace:
    """Memory served beside a workspace whose indexes several groups share."""

    harness: Harness
    vectors: VectorSearchEmulator

    async def queries_of(self, memories: Any, request: pb.TraverseEntitiesRequest) -> tuple[list[str], Any]:
        """Traverse; return which data of the index was asked for meanwhile, and the graph."""
        self.vectors.clear_log()
        graph = await memories.TraverseEntities(request)
        return [exchange.path.removeprefix(INDEX_PATH) for exchange in self.vectors.requests(path=INDEX_PATH)], graph


INDEX_PATH = f"/api/2.0/vector-search/indexes/{index_name('entity')}/"


@pytest.fixture
def vectors() -> Iterator[VectorSearchEmulator]:
    with VectorSearchEmulator() as emulator:
        yield emulator


@pytest.fixture(params=["STANDARD", "STORAGE_OPTIMIZED"])
async def workspace(
    request: pytest.FixtureRequest, tmp_path: Path, vectors: VectorSearchEmulator, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Workspace]:
    monkeypatch.setenv("DATABRICKS_HOST", vectors.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-operator")
    make_indexes(vectors, request.param)
    settings = MemorySettings(databricks_visibility_seconds=0.01, databricks_attempts=2)
    async with serve_memory(tmp_path, settings=settings) as (harness, _):
        yield Workspace(harness, vectors)


async def save(memories: Any, records: Iterable[record_pb2.Record], memory_id: str = "crew") -> None:
    """Store entities with times of their own, so that their order is the same wherever they lie."""
    namespace = pb.Namespace(memory_id=memory_id, kind=record_pb2.MEMORY_KIND_ENTITY)
    dated = list(records)
    for second, record in enumerate(dated):
        record.id = f"r{second}"
        record.create_time.FromSeconds(1_700_000_000 + second)
    for begin in range(0, len(dated), 1000):
        await memories.SaveRecords(pb.SaveRecordsRequest(namespace=namespace, records=dated[begin : begin + 1000]))


def people(seed: int) -> list[record_pb2.Record]:
    """Some tangled graph, with several records of one name and with names that filters have to quote."""
    chance = random.Random(seed)
    names = ["Ann", "O'Brien", 'the "Bell"', "Zürich [north]", "a\\b", "x, y", "%", *(f"p{n}" for n in range(12))]

    def some() -> list[tuple[str, str]]:
        return [(chance.choice(["knows", "owns"]), chance.choice(names)) for _ in range(chance.randrange(4))]

    known = [entity(name, *some()) for name in [*names[:15], *chance.choices(names, k=8)]]
    return [*known, entity("Ann", ("knows", names[1]), ("owns", names[3]))]


def steps_from(records: list[record_pb2.Record], relations: set[str], max_depth: int) -> dict[str, int]:
    """How many steps lead to each entity: the plainest reckoning of it."""
    steps = {"Ann": 0}
    for depth in range(max_depth):
        near = {name for name, far in steps.items() if far == depth}
        for record in records:
            for link in record.entity.relationships:
                if record.entity.entity_name in near and (not relations or link.relation in relations):
                    steps.setdefault(link.target, depth + 1)
    return steps


@pytest.mark.parametrize("seed", range(3))
async def test_a_workspace_and_the_default_store_give_one_graph(workspace: Workspace, seed: int) -> None:
    memories, records = stub(workspace.harness.channel()), people(seed)
    requests = [
        pb.TraverseEntitiesRequest(namespace=ENTITIES, start="Ann", relations=relations, max_depth=depth, limit=limit)
        for relations in ([], ["knows"], ["nothing"])
        for depth in (1, 3, 8)
        for limit in (0, 3)
    ]
    await save(memories, records)
    at_home = [await memories.TraverseEntities(request) for request in requests]
    await use_workspace(workspace.harness, workspace.vectors.url, ALICE)
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await memories.TraverseEntities(requests[0])
    await save(memories, records)
    for request, expected in zip(requests, at_home, strict=True):
        graph = await memories.TraverseEntities(request)
        assert graph == expected
        if not request.limit:
            steps = {node.entity_name: node.depth for node in graph.entities}
            assert steps == steps_from(records, set(request.relations), request.max_depth)
    await backends_stub(workspace.harness).ActivateMemoryBackend(backend_pb.ActivateMemoryBackendRequest(id="default"))
    assert [await memories.TraverseEntities(request) for request in requests] == at_home


async def test_on_a_shared_index_a_graph_ends_where_the_own_rows_end(workspace: Workspace) -> None:
    await use_workspace(workspace.harness, workspace.vectors.url, ALICE, BOB)
    alice, bob = (stub(workspace.harness.channel(bearer)) for bearer in (ALICE, BOB))
    await save(alice, [entity("Ann", ("knows", "Bob")), entity("Bob", ("knows", "Cid"))])
    await save(alice, [entity("Ann", ("knows", "of another crew"))], "another")
    await save(bob, [entity("Ann", ("hates", "Bob"), ("knows", "secret")), entity("Cid", ("knows", "secret"))])
    assert len(workspace.vectors.rows(index_name("entity"))) == 5

    async def seen(memories: Any, start: str) -> set[tuple[str, str, str]]:
        request = pb.TraverseEntitiesRequest(namespace=ENTITIES, start=start, max_depth=8)
        graph = await memories.TraverseEntities(request)
        assert all(len(node.records) <= 1 for node in graph.entities)
        return {(edge.source, edge.relation, edge.target) for edge in graph.edges}

    assert await seen(alice, "Ann") == {("Ann", "knows", "Bob"), ("Bob", "knows", "Cid")}
    assert await seen(bob, "Ann") == {("Ann", "hates", "Bob"), ("Ann", "knows", "secret")}
    assert await seen(bob, "Cid") == {("Cid", "knows", "secret")}
    for memories, foreign in ((alice, "Cid"), (bob, "Bob"), (alice, "secret")):
        with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
            await seen(memories, foreign)


async def test_each_depth_costs_one_query_however_many_entities_lie_there(workspace: Workspace) -> None:
    await use_workspace(workspace.harness, workspace.vectors.url, ALICE)
    memories = stub(workspace.harness.channel())
    names = [f"e{n}" for n in range(900)]
    hub = entity("hub", *(("knows", name) for name in names))
    await save(memories, [hub, *(entity(name, ("knows", "hub"), ("knows", "end")) for name in names)])

    request = pb.TraverseEntitiesRequest(namespace=ENTITIES, start="hub", max_depth=8, limit=1000)
    asked, graph = await workspace.queries_of(memories, request)
    assert len(graph.entities) == 902
    # The hub, what it knows, and the end; behind that lies nothing more to ask for.
    assert asked == ["query"] * 3


async def test_many_records_of_one_entity_are_read_once(workspace: Workspace) -> None:
    await use_workspace(workspace.harness, workspace.vectors.url, ALICE)
    memories = stub(workspace.harness.channel())
    await save(memories, [entity("Ann", ("knows", f"e{n % 5}")) for n in range(2500)])
    request = pb.TraverseEntitiesRequest(namespace=ENTITIES, start="Ann", max_depth=1)
    asked, graph = await workspace.queries_of(memories, request)
    assert [len(node.records) for node in graph.entities] == [2500, 0, 0, 0, 0, 0]
    assert not graph.truncated
    # Pages of 1,000 rows are what the service gives.
    assert asked == ["query", "query-next-page", "query-next-page", "query"]
