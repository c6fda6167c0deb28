"""Near-copies of what is there replace its text where a save asks for it, in every store."""

import asyncio
import math
from typing import Any

import grpc
import pytest

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from services.common.grpc.json_values import from_struct, to_struct
from tests.integration.memory.support import DIMENSION, place, stub, unified
from tests.support.harness import BOB, Harness

CREATED, EXISTING, MERGED = pb.SAVE_OUTCOME_CREATED, pb.SAVE_OUTCOME_EXISTING, pb.SAVE_OUTCOME_MERGED


def _at(degrees: float) -> list[float]:
    """Return a vector; the similarity of two is the cosine of the angle between them."""
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), *[0.0] * (DIMENSION - 2)]


async def _save(memories: Any, *records: record_pb2.Record, similarity: float = 0.95, kind: int = 0) -> Any:
    namespace = place("" if kind == record_pb2.MEMORY_KIND_DOCUMENT else "crew", kind)
    request = pb.SaveRecordsRequest(namespace=namespace, records=records, near_copy_similarity=similarity)
    return await memories.SaveRecords(request)


def _outcomes(response: Any) -> list[int]:
    return [saved.outcome for saved in response.records]


async def _listed(memories: Any, kind: int = 0, **filters: Any) -> list[record_pb2.Record]:
    namespace = place("" if kind == record_pb2.MEMORY_KIND_DOCUMENT else "crew", kind)
    listing = pb.ListRecordsRequest(namespace=namespace, filter=pb.RecordFilter(**filters))
    return list((await memories.ListRecords(listing)).records)


async def test_the_newer_text_takes_the_place_of_its_near_copy(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    older = unified(
        "The customer prefers e-mail.",
        embedding=_at(0),
        scope="/a",
        categories=["a"],
        importance=0.75,
        source="writer",
        metadata=to_struct({"page": 1, "of": "x"}),
    )
    first = await _save(memories, older, unified("Ships carry lamps.", embedding=_at(90), scope="/a"))
    assert _outcomes(first) == [CREATED, CREATED]
    [before] = [record for record in await _listed(memories) if record.id == first.ids[0]]
    newer = unified(
        "The customer prefers letters now.",
        embedding=_at(10),
        scope="/a",
        categories=["b"],
        importance=0.25,
        source="editor",
        metadata=to_struct({"page": 2}),
    )
    again = await _save(memories, newer)
    assert (_outcomes(again), again.ids, again.records[0].revision) == ([MERGED], first.ids[:1], 2)
    record = (await memories.GetRecord(pb.GetRecordRequest(namespace=place(), id=first.ids[0]))).record
    assert (record.unified.content, record.unified.source) == ("The customer prefers letters now.", "editor")
    assert (list(record.unified.categories), record.unified.importance) == (["a", "b"], 0.75)
    assert from_struct("", record.metadata) == {"page": 2, "of": "x"}
    assert record.create_time == before.create_time
    # The vector is the newer one's too: so it is found, and the same text again is the same memory.
    found = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), vector=pb.Vector(values=_at(10))))
    assert (found.results[0].record.id, round(found.results[0].similarity, 4)) == (first.ids[0], 1.0)
    assert _outcomes(await _save(memories, newer)) == [EXISTING]
    assert len(await _listed(memories)) == 2


async def test_near_copies_are_of_one_scope_and_one_owner_and_asked_for(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    [known] = (await _save(memories, unified("one", embedding=_at(0), scope="/a"))).ids
    apart = (
        unified("two", embedding=_at(5), scope="/a/b"),
        unified("three", embedding=_at(5), scope="/"),
        unified("four", embedding=_at(25), scope="/a"),
        unified("five", "mine", embedding=_at(5), scope="/b"),
        unified("six", embedding=_at(6), scope="/a", private=True),
    )
    assert _outcomes(await _save(memories, *apart)) == [CREATED] * 5
    assert _outcomes(await _save(memories, unified("seven", embedding=_at(3), scope="/a"), similarity=0)) == [CREATED]
    # Of two the nearer one; of private ones the caller's own.
    for text, private, nearest in (("eight", False, "seven"), ("nine", True, "six")):
        before = {r.id: r.unified.content for r in await _listed(memories, include_private=True)}
        response = await _save(memories, unified(text, embedding=_at(4), scope="/a", private=private))
        assert (_outcomes(response), before[response.ids[0]]) == ([MERGED], nearest)
    # Another group has memories of its own.
    others = stub(everywhere.channel(BOB))
    assert _outcomes(await _save(others, unified("ten", embedding=_at(0), scope="/a"))) == [CREATED]
    record = (await memories.GetRecord(pb.GetRecordRequest(namespace=place(), id=known))).record
    assert record.unified.content == "one"


async def test_near_copies_within_one_call_are_decided_in_order(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    # Each is near the one before it, the last one not near the first any more.
    steps = [unified(f"{degrees}", embedding=_at(degrees)) for degrees in (0, 15, 30, 0)]
    response = await _save(memories, *steps)
    assert _outcomes(response) == [CREATED, MERGED, MERGED, CREATED]
    assert len(set(response.ids[:3])) == 1
    assert sorted(record.unified.content for record in await _listed(memories)) == ["0", "30"]
    # The record that was near has moved on: the text before it is a new memory.
    assert _outcomes(await _save(memories, unified("60", embedding=_at(45)), unified("31", embedding=_at(31)))) == [
        MERGED,
        MERGED,
    ]
    assert len(await _listed(memories)) == 2


async def test_concurrent_saves_do_not_miss_each_others_near_copies(everywhere: Harness, store: Any) -> None:
    stubs = [stub(everywhere.channel()) for _ in range(3)]
    saves = (_save(stubs[n % 3], unified(f"copy {n}", embedding=_at(n / 10))) for n in range(9))
    responses = await asyncio.gather(*saves)
    outcomes = sorted(outcome for response in responses for outcome in _outcomes(response))
    if store[0] == "databricks":
        # An index shows what was saved some seconds later: copies may stay, and nothing is lost.
        assert set(outcomes) <= {CREATED, MERGED}
        return
    assert outcomes == [CREATED, *[MERGED] * 8]
    assert len(await _listed(stubs[0])) == 1


KINDS = {
    "short_term": (record_pb2.ShortTermRecord, {"session_id": "s"}, {"session_id": "t"}),
    "long_term": (record_pb2.LongTermRecord, {"task_description": "s"}, {"task_description": "t"}),
    "entity": (record_pb2.EntityRecord, {"entity_name": "Ann"}, {"entity_name": "Bea"}),
    "document": (record_pb2.DocumentRecord, {"parent_document_id": "s"}, {"parent_document_id": "t"}),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_near_copies_of_every_kind_have_in_common_what_identifies_them(everywhere: Harness, kind: str) -> None:
    memories = stub(everywhere.channel())
    message, here, elsewhere = KINDS[kind]
    text = "description" if kind == "entity" else "content"
    number = record_pb2.MemoryKind.Value(f"MEMORY_KIND_{kind.upper()}")

    def record(content: str, fields: Any) -> record_pb2.Record:
        return record_pb2.Record(**{kind: message(**{text: content}, **fields)}, embedding=_at(len(content)))

    response = await _save(memories, record("x", here), record("xyz", elsewhere), record("xy", here), kind=number)
    assert _outcomes(response) == [CREATED, CREATED, MERGED]
    again = await _save(memories, record("xyzzy", here), kind=number)
    assert (_outcomes(again), again.ids) == ([MERGED], response.ids[:1])
    texts = {getattr(getattr(listed, kind), text) for listed in await _listed(memories, number)}
    assert texts == {"xyz", "xyzzy"}


async def test_a_call_that_compares_is_bounded(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    records = [unified(f"{n}", embedding=_at(0)) for n in range(101)]
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await _save(memories, *records)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 100" in str(refusal.value.details())
