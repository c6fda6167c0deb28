"""What is saved again without an id is the memory that is there, in every store."""

import asyncio
from typing import Any

import pytest

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from services.common.grpc.json_values import from_struct, to_struct
from tests.integration.memory.support import place, stub, unified
from tests.support.harness import BOB, Harness

CREATED, REPLACED, EXISTING = pb.SAVE_OUTCOME_CREATED, pb.SAVE_OUTCOME_REPLACED, pb.SAVE_OUTCOME_EXISTING
TEXT = "The customer prefers email."


async def _save(memories: Any, *records: record_pb2.Record, memory_id: str = "crew") -> Any:
    response = await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(memory_id), records=records))
    assert [saved.id for saved in response.records] == response.ids
    return response


def _outcomes(response: Any) -> list[int]:
    return [saved.outcome for saved in response.records]


async def _count(memories: Any, namespace: pb.Namespace) -> int:
    return int((await memories.CountRecords(pb.CountRecordsRequest(namespace=namespace))).count)


async def test_the_same_text_in_the_same_scope_is_one_memory(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    first = await _save(memories, unified(TEXT, scope="/a"), unified(TEXT, scope="/a"))
    assert (len(set(first.ids)), _outcomes(first)) == (1, [CREATED, EXISTING])
    again = await _save(memories, unified(TEXT, scope="/a"), unified(TEXT, scope="/b"), unified(TEXT + " \n"))
    assert _outcomes(again) == [EXISTING, CREATED, CREATED]
    assert again.ids[0] == first.ids[0]
    assert len(set(again.ids)) == 3
    # Another spelling of the same letters, and white space at the end.
    accents = await _save(memories, unified("é"), unified("e\u0301\n"), unified(" é"))
    assert _outcomes(accents) == [CREATED, EXISTING, CREATED]
    assert await _count(memories, place()) == 5
    # Other crews and other groups have memories of their own.
    assert _outcomes(await _save(memories, unified(TEXT, scope="/a"), memory_id="other")) == [CREATED]
    assert _outcomes(await _save(stub(everywhere.channel(BOB)), unified(TEXT, scope="/a"))) == [CREATED]
    found = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text=TEXT, limit=10))
    seen = [(result.record.unified.content.rstrip(), result.record.unified.scope) for result in found.results]
    assert len(seen) == len(set(seen)) == 5


async def test_a_memory_that_is_saved_again_loses_nothing(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    metadata = to_struct({"page": 1, "of": "a"})
    [record_id] = (await _save(memories, unified("x", categories=["a"], importance=0.75, metadata=metadata))).ids
    [before] = (await memories.ListRecords(pb.ListRecordsRequest(namespace=place()))).records
    metadata = to_struct({"page": 2, "more": True})
    again = unified("x", categories=["b", "a"], importance=0.25, metadata=metadata, agent_id="bob")
    assert (await _save(memories, again)).ids == [record_id]
    record = (await memories.GetRecord(pb.GetRecordRequest(namespace=place(), id=record_id))).record
    assert (list(record.unified.categories), record.unified.importance) == (["a", "b"], 0.75)
    assert from_struct("", record.metadata) == {"page": 1, "of": "a", "more": True}
    assert (record.create_time, record.agent_id) == (before.create_time, "bob")
    assert not before.unified.HasField("last_accessed")
    assert record.unified.last_accessed.ToDatetime() > record.create_time.ToDatetime()
    assert await _count(memories, place()) == 1


async def test_records_with_an_id_are_stored_under_it_and_leave_room_for_others(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    response = await _save(memories, unified("x", "mine"), unified("x", "yours"), unified("x", "mine"))
    assert (list(response.ids), _outcomes(response)) == (["mine", "yours", "mine"], [CREATED, CREATED, REPLACED])
    [chosen] = (await _save(memories, unified("first"))).ids
    # Another text under an id that the server has chosen: the first one can be learnt again, beside it.
    assert _outcomes(await _save(memories, unified("second", chosen))) == [REPLACED]
    for outcome in (CREATED, EXISTING):
        learnt = await _save(memories, unified("first"))
        assert _outcomes(learnt) == [outcome]
        assert learnt.ids != [chosen]
    record = (await memories.GetRecord(pb.GetRecordRequest(namespace=place(), id=chosen))).record
    assert record.unified.content == "second"


async def test_concurrent_saves_of_one_text_are_one_memory(everywhere: Harness) -> None:
    stubs = [stub(everywhere.channel()) for _ in range(3)]
    responses = await asyncio.gather(*(_save(stubs[n % 3], unified(TEXT), unified(f"{n}")) for n in range(9)))
    assert len({response.ids[0] for response in responses}) == 1
    assert await _count(stubs[0], place()) == 10


SAME = [
    (
        record_pb2.Record(short_term=record_pb2.ShortTermRecord(content="x", query_text="q", session_id="s")),
        record_pb2.Record(short_term=record_pb2.ShortTermRecord(content="x", query_text="q", session_id="t")),
    ),
    (
        record_pb2.Record(short_term=record_pb2.ShortTermRecord(content="x", interaction_sequence=1)),
        record_pb2.Record(short_term=record_pb2.ShortTermRecord(content="x", interaction_sequence=2)),
    ),
    (
        record_pb2.Record(long_term=record_pb2.LongTermRecord(content="x", task_description="t", quality=3)),
        record_pb2.Record(long_term=record_pb2.LongTermRecord(content="x", task_description="u", quality=3)),
    ),
    (
        record_pb2.Record(entity=record_pb2.EntityRecord(entity_name="Ann", entity_type="person")),
        record_pb2.Record(entity=record_pb2.EntityRecord(entity_name="Ann", entity_type="ship")),
    ),
    (
        record_pb2.Record(document=record_pb2.DocumentRecord(content="x", title="t", chunk_index=1, agent_ids=["a"])),
        record_pb2.Record(document=record_pb2.DocumentRecord(content="x", title="t", chunk_index=1)),
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=lambda record: str(record.WhichOneof("kind")))
async def test_every_kind_says_what_makes_two_records_one(
    everywhere: Harness, one: record_pb2.Record, other: record_pb2.Record
) -> None:
    memories = stub(everywhere.channel())
    kind = record_pb2.MemoryKind.Value(f"MEMORY_KIND_{str(one.WhichOneof('kind')).upper()}")
    namespace = place("" if kind == record_pb2.MEMORY_KIND_DOCUMENT else "crew", kind)
    outcomes: list[int] = []
    for _ in range(2):
        outcomes += _outcomes(
            await memories.SaveRecords(pb.SaveRecordsRequest(namespace=namespace, records=[one, other, one]))
        )
    assert outcomes == [CREATED, CREATED, EXISTING, EXISTING, EXISTING, EXISTING]
    assert await _count(memories, namespace) == 2


async def test_relationships_of_an_entity_saved_again_are_joined(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    namespace = place(kind=record_pb2.MEMORY_KIND_ENTITY)
    for target in ("Harbour", "Office", "Harbour"):
        relationship = record_pb2.Relationship(relation="works_for", target=target)
        entity = record_pb2.EntityRecord(entity_name="Ann", relationships=[relationship])
        request = pb.SaveRecordsRequest(namespace=namespace, records=[record_pb2.Record(entity=entity)])
        await memories.SaveRecords(request)
    [record] = (await memories.ListRecords(pb.ListRecordsRequest(namespace=namespace))).records
    assert [edge.target for edge in record.entity.relationships] == ["Harbour", "Office"]
