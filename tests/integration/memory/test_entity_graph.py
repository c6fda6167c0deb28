"""TraverseEntities: relationships as a graph."""

from typing import Any

import grpc

from coxswain.memory.v1 import memory_service_pb2 as pb
from coxswain.memory.v1 import record_pb2
from tests.integration.auth.support import refused
from tests.integration.memory.support import EmbeddingModels, stub
from tests.support.harness import BOB, Harness

Served = tuple[Harness, EmbeddingModels]
ENTITIES = pb.Namespace(crew_id="crew", kind=record_pb2.MEMORY_KIND_ENTITY)


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
    await memories.Save(pb.SaveRequest(namespace=ENTITIES, records=records))
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
    unified = pb.Namespace(crew_id="crew", kind=record_pb2.MEMORY_KIND_UNIFIED)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await stub(harness.channel()).TraverseEntities(pb.TraverseEntitiesRequest(namespace=unified, start="Ann"))
