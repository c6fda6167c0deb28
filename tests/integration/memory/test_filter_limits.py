"""Filters as large as requests may have them, in every call that takes one, over gRPC on both databases."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import ParseDict

from coxswain.memory.v1 import memory_pb2 as pb
from services.common.grpc.json_values import to_struct
from tests.integration.memory.support import EmbeddingModels, place, stub, unified
from tests.support.harness import Harness

_TEXTS = [f"v{number}" for number in range(1000)]
_MANY_TEXTS = [{"text": text} for text in _TEXTS]
_HAS_KEY = {"metadata": {"path": ["k"], "operator": "METADATA_OPERATOR_EXISTS"}}
_LONG_PATHS = {
    "all_of": {
        "expressions": [
            {
                "metadata": {
                    "path": [f"{number}-{step}" for step in range(32)],
                    "operator": "METADATA_OPERATOR_EXISTS",
                }
            }
            for number in range(64)
        ]
    }
}


def _nested(expression: Mapping[str, Any], levels: int) -> Mapping[str, Any]:
    for _ in range(levels):
        expression = {"negated": expression}
    return expression


def _columns(parts: int) -> Mapping[str, Any]:
    """Return conditions on columns, the last of which holds for every record that was never used."""
    last = {"column": "last_accessed", "operator": "COMPARISON_OPERATOR_NOT_EQUAL"}
    conditions: list[dict[str, Any]] = [
        {
            "column": "importance" if number % 2 else "source",
            "operator": "COMPARISON_OPERATOR_NOT_EQUAL",
            "values": [{"number": 0.9}] if number % 2 else [{"text": f"s{number}"}],
        }
        for number in range(parts - 1)
    ]
    conditions.append(last | {"values": [{"time": "2020-01-01T00:00:00Z"}]})
    return {"all_of": {"expressions": [{"condition": condition} for condition in conditions]}}


_FILTERS: Mapping[str, tuple[dict[str, Any], int]] = {
    "values of metadata": ({"expression": {"metadata": {"path": ["k"], "values": _TEXTS}}}, 1),
    "values of metadata, ten times": (
        {"expression": {"all_of": {"expressions": [{"metadata": {"path": ["k"], "values": _TEXTS}}] * 10}}},
        1,
    ),
    "paths": ({"expression": _LONG_PATHS}, 0),
    "paths or another": ({"expression": {"any_of": {"expressions": [_LONG_PATHS, _HAS_KEY]}}}, 2),
    "columns": ({"expression": _nested({"any_of": {"expressions": [_columns(61)] * 4}}, 4)}, 2),
    "everything": (
        {
            "conditions": [
                *[{"column": "source", "operator": "COMPARISON_OPERATOR_NOT_EQUAL", "values": _MANY_TEXTS}] * 9,
                *[{"column": "source", "operator": "COMPARISON_OPERATOR_NOT_EQUAL", "values": [{"text": "x"}]}] * 55,
            ],
            "scope_prefix": "/a",
            "categories": [f"c{number}" for number in range(64)],
            "all_categories": [f"c{number}" for number in range(64)],
            "metadata": {"k": "v7"} | {f"m{number}": number for number in range(31)},
            "created_before": "2100-01-01T00:00:00Z",
            "created_after": "2000-01-01T00:00:00Z",
            "expression": {
                "all_of": {
                    "expressions": [
                        *[{"metadata": {"path": ["k"], "values": _TEXTS}}] * 9,
                        {"any_of": {"expressions": [_columns(60)] * 3}},
                    ]
                }
            },
        },
        1,
    ),
}


async def test_the_largest_filters_are_evaluated_in_every_call(served: tuple[Harness, EmbeddingModels]) -> None:
    memories = stub(served[0].channel())
    for name, (chosen, expected) in _FILTERS.items():
        await _check(memories, place(name), ParseDict(chosen, pb.RecordFilter()), expected)


async def _check(memories: Any, namespace: pb.Namespace, chosen: pb.RecordFilter, expected: int) -> None:
    categories = [f"c{number}" for number in range(64)]
    metadata = {"k": "v7"} | {f"m{number}": number for number in range(31)}
    records = [
        unified("apple pie", "r", scope="/a/b", categories=categories, metadata=to_struct(metadata)),
        unified("apple tart", "other", metadata=to_struct({"k": "not among them"})),
        unified("apple tree", "none", importance=0.9, metadata=to_struct({"j": "v7"})),
    ]
    for record in records:
        record.embedding.extend([1, 0, 0])
    await memories.SaveRecords(
        pb.SaveRecordsRequest(namespace=namespace, embedding_model="test/three", records=records)
    )
    chosen_here: dict[str, Any] = {"namespace": namespace, "filter": chosen}
    found = [
        await memories.SearchRecords(pb.SearchRecordsRequest(**chosen_here, **query))
        for query in ({"vector": pb.Vector(values=[1, 0, 0])}, {"text": "apple", "mode": pb.SEARCH_MODE_TEXT})
    ]
    assert [len(response.results) for response in found] == [expected] * 2
    assert len((await memories.ListRecords(pb.ListRecordsRequest(**chosen_here))).records) == expected
    assert (await memories.CountRecords(pb.CountRecordsRequest(**chosen_here))).count == expected
    exported = memories.ExportRecords(pb.ExportRecordsRequest(**chosen_here))
    assert sum([len(chunk.records) async for chunk in exported]) == expected
    assert (await memories.DeleteRecords(pb.DeleteRecordsRequest(**chosen_here))).deleted == expected
