"""Filters put together with and, or and not, and results that differ from each other, over gRPC."""

from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from coxswain.memory.v1 import memory_pb2 as pb
from services.common.grpc.json_values import to_struct
from services.memory.usecases.ranked_search import CANDIDATES
from tests.integration.auth.support import refused
from tests.integration.memory.support import EmbeddingModels, place, stub, unified
from tests.support.harness import Harness

Served = tuple[Harness, EmbeddingModels]


def _request(**fields: Any) -> pb.SearchRecordsRequest:
    return ParseDict(
        {"namespace": {"memory_id": "crew"}, "vector": {"values": [1, 0, 0]}, **fields}, pb.SearchRecordsRequest()
    )


async def _search(memories: Any, **fields: Any) -> list[str]:
    response = await memories.SearchRecords(_request(**fields))
    return [result.record.id for result in response.results]


async def test_a_filter_is_put_together(served: Served) -> None:
    memories = stub(served[0].channel())
    orders = [
        unified("a", "open", metadata=to_struct({"order": {"total": 40, "tags": ["rush"]}}), categories=["x", "y"]),
        unified("b", "paid", metadata=to_struct({"order": {"total": 250, "tags": []}}), categories=["x"]),
        unified("c", "none", importance=0.9),
    ]
    for record in orders:
        record.embedding.extend([1, 0, 0])
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), embedding_model="test/three", records=orders))
    large = {
        "metadata": {"path": ["order", "total"], "operator": "METADATA_OPERATOR_GREATER_OR_EQUAL", "values": [100]}
    }
    rush = {"metadata": {"path": ["order", "tags"], "operator": "METADATA_OPERATOR_CONTAINS", "values": ["rush"]}}
    there = {"metadata": {"path": ["order"], "operator": "METADATA_OPERATOR_EXISTS"}}
    weighty = {
        "condition": {
            "column": "importance",
            "operator": "COMPARISON_OPERATOR_GREATER",
            "values": [{"number": 0.5}],
        }
    }
    either = {"any_of": {"expressions": [rush, weighty]}}
    assert sorted(await _search(memories, filter={"expression": either})) == ["none", "open"]
    both = {"all_of": {"expressions": [there, {"negated": large}]}}
    assert await _search(memories, filter={"expression": both}) == ["open"]
    assert await _search(memories, filter={"all_categories": ["x", "y"]}) == ["open"]
    assert await _search(memories, filter={"created_after": "9999-01-01T00:00:00Z"}) == []
    chosen = ParseDict({"expression": {"negated": there}}, pb.RecordFilter())
    count = await memories.CountRecords(pb.CountRecordsRequest(namespace=place(), filter=chosen))
    assert count.count == 1
    removed = await memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=place(), filter=chosen))
    assert removed.deleted == 1


async def test_a_faulty_part_of_a_filter_is_named(served: Served) -> None:
    memories = stub(served[0].channel())
    wrong = {"any_of": {"expressions": [{"condition": {"column": "color", "values": [{"text": "red"}]}}]}}
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await _search(memories, filter={"expression": wrong})
    assert refusal.fields == ["filter.expression.any_of.expressions[0].condition.column"]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await _search(memories, filter={"expression": {"any_of": {}}})
    assert refusal.fields == ["filter.expression.any_of.expressions"]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await _search(
            memories,
            namespace={"memory_id": "crew", "kind": "MEMORY_KIND_ENTITY"},
            filter={"all_categories": ["x"]},
        )
    assert refusal.fields == ["filter.all_categories"]


async def test_near_copies_do_not_fill_the_results(served: Served) -> None:
    memories = stub(served[0].channel())
    vectors = {f"copy{n}": [1, 0.01 * n, 0] for n in range(5)} | {"other": [1, 0, 1], "third": [1, -1.5, 0]}
    records = [unified(name, name, embedding=vector) for name, vector in vectors.items()]
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), embedding_model="test/three", records=records))
    assert await _search(memories, limit=3) == ["copy0", "copy1", "copy2"]
    assert set(await _search(memories, limit=3, diversity=0.7)) == {"copy0", "other", "third"}
    in_order = await _search(memories, limit=7, diversity=0.7)
    assert sorted(in_order) == sorted(vectors)

    paged: list[str] = []
    token, pages = "", 0
    while token or not pages:
        response = await memories.SearchRecords(_request(limit=2 + pages, diversity=0.7, page_token=token))
        paged += [result.record.id for result in response.results]
        assert not any(result.record.embedding for result in response.results)
        token, pages = response.next_page_token, pages + 1
    assert paged == in_order

    with_vectors = await memories.SearchRecords(_request(limit=1, diversity=1, include_embeddings=True))
    assert len(with_vectors.results[0].record.embedding) == 3
    assert await _search(memories, diversity=0, filter={"scope_prefix": "/none"}) == []


@pytest.mark.parametrize(
    ("fields", "field"), [({"diversity": 1.5}, "diversity"), ({"diversity": 0, "limit": CANDIDATES + 1}, "limit")]
)
async def test_diversity_has_bounds(served: Served, fields: dict[str, Any], field: str) -> None:
    memories = stub(served[0].channel())
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await _search(memories, **fields)

    assert refusal.fields == [field]
