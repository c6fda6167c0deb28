"""Saves that expect a revision of a record, in every store."""

import grpc

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from tests.integration.auth.support import refused
from tests.integration.memory.support import place, stub, unified
from tests.support.harness import Harness

CODE = grpc.StatusCode


async def test_a_save_that_expects_a_revision_finds_it_or_changes_nothing(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())

    async def save(text: str, expected: int | None, *more: record_pb2.Record) -> list[int]:
        record = unified(text, "r")
        if expected is not None:
            record.expected_revision = expected
        request = pb.SaveRecordsRequest(namespace=place(), records=[*more, record])
        return [saved.revision for saved in (await memories.SaveRecords(request)).records]

    async def revision() -> int:
        record = (await memories.GetRecord(pb.GetRecordRequest(namespace=place(), id="r"))).record
        return int(record.revision)

    assert await save("one", None) == [1]
    assert await save("two", None) == [2]
    await memories.TouchRecords(pb.TouchRecordsRequest(namespace=place(), ids=["r"]))
    assert await revision() == 2
    [info] = (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces
    if info.version == 0:
        # A Databricks index.
        with refused(CODE.FAILED_PRECONDITION, "INVALID_FIELD"):
            await save("three", 2)
        return
    for expected in (0, 1, 3):
        with refused(CODE.ABORTED, "REVISION_MISMATCH") as refusal:
            await save("lost", expected, unified("beside", "b"))
        assert refusal.metadata["actual"] == "2"
    assert await save("three", 2, unified("beside", "b")) == [1, 3]
    assert await revision() == 3
    new = unified("new", "n")
    new.expected_revision = 0
    assert (await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[new]))).records[
        0
    ].revision == 1
    new.id = ""
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[new]))
