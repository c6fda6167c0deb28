"""Records of every kind may end at a time of their own, in every store."""

from datetime import UTC, timedelta

import grpc
import pytest

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from services.common.clock import utc_now
from services.common.grpc.times import timestamp_to_proto
from tests.integration.auth.support import refused
from tests.integration.memory.support import place, stub, unified
from tests.support.harness import Harness

CODE = grpc.StatusCode
BODIES = [
    record_pb2.Record(unified=record_pb2.UnifiedRecord(content="x")),
    record_pb2.Record(short_term=record_pb2.ShortTermRecord(content="x", ttl_hours=1)),
    record_pb2.Record(long_term=record_pb2.LongTermRecord(content="x")),
    record_pb2.Record(entity=record_pb2.EntityRecord(entity_name="x")),
    record_pb2.Record(document=record_pb2.DocumentRecord(content="x")),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda record: str(record.WhichOneof("kind")))
async def test_what_has_ended_is_not_there_and_can_be_saved_anew(everywhere: Harness, body: record_pb2.Record) -> None:
    memories = stub(everywhere.channel())
    kind = record_pb2.MemoryKind.Value(f"MEMORY_KIND_{str(body.WhichOneof('kind')).upper()}")
    namespace = place("" if kind == record_pb2.MEMORY_KIND_DOCUMENT else "crew", kind)

    async def save(name: str, **fields: object) -> pb.SavedRecord:
        record = record_pb2.Record(id=name, **fields)  # type: ignore[arg-type]
        record.MergeFrom(body)
        saved = await memories.SaveRecords(pb.SaveRecordsRequest(namespace=namespace, records=[record]))
        return saved.records[0]  # type: ignore[no-any-return]

    async def seen() -> set[str]:
        listed = (await memories.ListRecords(pb.ListRecordsRequest(namespace=namespace))).records
        request = pb.SearchRecordsRequest(namespace=namespace, text="x", limit=2)
        found = {result.record.id for result in (await memories.SearchRecords(request)).results}
        assert found == {record.id for record in listed}
        count = (await memories.CountRecords(pb.CountRecordsRequest(namespace=namespace))).count
        assert count == len(found)
        return found

    now = utc_now()
    await save("past", expire_time=timestamp_to_proto(now - timedelta(seconds=1)))
    await save("future", expire_time=timestamp_to_proto(now + timedelta(minutes=5)))
    before = utc_now()
    await save("later", ttl_seconds=300)
    after = utc_now()
    assert await seen() == {"future", "later"}
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await memories.GetRecord(pb.GetRecordRequest(namespace=namespace, id="past"))
    kept = (await memories.GetRecord(pb.GetRecordRequest(namespace=namespace, id="later"))).record
    # The time runs from the call, however long its text takes to be embedded.
    lived = timedelta(seconds=300)
    assert before + lived <= kept.expire_time.ToDatetime(UTC) <= after + lived
    assert (await save("past")).outcome == pb.SAVE_OUTCOME_CREATED
    assert (await memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=namespace, ids=["later"]))).deleted == 1
    assert await seen() == {"past", "future"}


async def test_a_memory_saved_again_ends_at_the_later_time_or_never(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    both = [unified("x"), unified("x")]
    both[0].ttl_seconds, both[1].ttl_seconds = 100, 1000
    record_id = ""
    for record in (*both, both[0]):
        [record_id] = (await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[record]))).ids
    kept = (await memories.GetRecord(pb.GetRecordRequest(namespace=place(), id=record_id))).record
    assert kept.expire_time.ToDatetime() - kept.create_time.ToDatetime() > timedelta(seconds=900)
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("x")]))
    kept = (await memories.GetRecord(pb.GetRecordRequest(namespace=place(), id=record_id))).record
    assert not kept.HasField("expire_time")
    both[0].expire_time.GetCurrentTime()
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=both))


async def test_what_has_ended_counts_in_no_figure_of_a_scope(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    records = [unified(f"x {n}", f"r{n}", scope="/a/b", categories=[f"c{n}"]) for n in range(2)]
    records[0].expire_time.FromDatetime(utc_now() - timedelta(seconds=1))
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))
    (below,) = (await memories.ListScopes(pb.ListScopesRequest(namespace=place(), parent="/a"))).scopes
    whole = (await memories.GetScope(pb.GetScopeRequest(namespace=place(), path="/a"))).scope
    assert [(info.path, info.record_count, list(info.categories)) for info in (below, whole)] == [
        ("/a/b", 1, ["c1"]),
        ("/a", 1, ["c1"]),
    ]
    counts = (await memories.ListCategories(pb.ListCategoriesRequest(namespace=place()))).counts
    assert dict(counts) == {"c1": 1}
