"""Exports and imports in every store: all of it, once, and nothing of others."""

from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from tests.integration.auth.support import refused
from tests.integration.memory.support import MODEL, place, stub, unified
from tests.support.harness import Harness

INVALID = grpc.StatusCode.INVALID_ARGUMENT
BOB, OLAF, EDITOR = "dev:bob:sales=operator", "dev:olaf:sales=operator", "dev:ed:sales=editor"


async def _import(memories: Any, *messages: Sequence[record_pb2.Record], memory_id: str = "crew") -> list[Any]:
    target = pb.ImportTarget(namespace=place(memory_id))
    requests = [pb.ImportRecordsRequest(records=records) for records in messages]
    requests[0].target.CopyFrom(target)
    return [response async for response in memories.ImportRecords(iter(requests))]


async def _export(memories: Any, memory_id: str = "crew", **fields: Any) -> tuple[pb.ExportOrigin, list[Any]]:
    stream = memories.ExportRecords(pb.ExportRecordsRequest(namespace=place(memory_id), **fields))
    first, *rest = [response async for response in stream]
    assert first.HasField("origin")
    assert not any(response.HasField("origin") for response in rest)
    return first.origin, [*first.records, *(record for response in rest for record in response.records)]


async def test_what_was_imported_is_exported_whole(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    records = [
        unified(f"text {number}", f"r{number}", scope=f"/s{number % 3}", categories=["a"]) for number in range(25)
    ]
    responses = await _import(memories, records[:10], [], records[10:])
    assert [(response.messages, response.created) for response in responses] == [(1, 10), (2, 10), (3, 25)]
    origin, exported = await _export(memories, include_embeddings=True)
    assert (origin.record_count, origin.embedding_dimension) == (25, 32)
    assert sorted(record.id for record in exported) == sorted(record.id for record in records)
    assert all(len(record.embedding) == 32 for record in exported)
    # The same file again, and into another crew: vectors and times are those of the export.
    assert (await _import(memories, exported))[-1].replaced == 25
    assert (await _import(memories, exported, memory_id="copy"))[-1].created == 25
    _, copies = await _export(memories, "copy", include_embeddings=True)
    by_id = {record.id: record for record in exported}
    for copy in copies:
        assert copy.unified == by_id[copy.id].unified
        assert copy.create_time == by_id[copy.id].create_time
        assert list(copy.embedding) == pytest.approx(list(by_id[copy.id].embedding), abs=1e-6)
    _, bare = await _export(memories)
    assert not any(record.embedding for record in bare)


async def test_an_export_goes_on_after_what_has_come(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    # Several messages: each is bounded by its bytes.
    long = "word " * 20_000
    records = [unified(f"{number} {long}", f"r{number}", embedding=[1.0] + [0.0] * 31) for number in range(25)]
    target = pb.ImportTarget(namespace=place(), embedding_model=MODEL)
    requests = [pb.ImportRecordsRequest(target=target, records=[record]) for record in records]
    counted = [response.created async for response in memories.ImportRecords(iter(requests))]
    assert counted == list(range(1, 26))
    stream = memories.ExportRecords(pb.ExportRecordsRequest(namespace=place()))
    seen, token = [], ""
    async for response in stream:
        seen += [record.id for record in response.records]
        if response.records:
            token = response.next_page_token
            break
    stream.cancel()
    assert 0 < len(seen) < 25
    _, rest = await _export(memories, page_token=token)
    assert sorted(seen + [record.id for record in rest]) == sorted(record.id for record in records)
    with refused(INVALID, "INVALID_PAGE_TOKEN"):
        await _export(memories, "other", page_token=token)
    with refused(INVALID, "INVALID_PAGE_TOKEN"):
        await _export(memories, page_token="nonsense")


async def test_an_export_obeys_filters_and_owners(everywhere: Harness) -> None:
    bob, olaf, editor = (stub(everywhere.channel(bearer)) for bearer in (BOB, OLAF, EDITOR))
    await _import(
        bob, [unified("open", "o"), unified("mine", "p", private=True, source="bob"), unified("b", "b", scope="/b")]
    )

    async def ids(memories: Any, **chosen: Any) -> set[str]:
        return {record.id for record in (await _export(memories, filter=pb.RecordFilter(**chosen)))[1]}

    assert await ids(bob, source="bob") == await ids(editor, include_private=True) == {"o", "p", "b"}
    assert await ids(bob) == await ids(olaf) == await ids(olaf, source="bob") == {"o", "b"}
    assert await ids(bob, scope_prefix="/b") == {"b"}
    with refused(grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await ids(olaf, include_private=True)


async def test_a_refused_message_leaves_those_before_it(everywhere: Harness) -> None:
    memories = stub(everywhere.channel())
    good, bad = unified("fine", "a"), unified("two", "b", embedding=[1.0, 2.0])
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "EMBEDDING_MISMATCH") as refusal:
        await _import(memories, [good], [unified("also fine", "c")], [bad])
    assert refusal.metadata["message"] == "2"
    assert {record.id for record in (await _export(memories))[1]} == {"a", "c"}


async def test_an_import_says_first_where_to_store(memory: Harness) -> None:
    memories = stub(memory.channel())
    with refused(INVALID, "INVALID_FIELD") as refusal:
        async for _ in memories.ImportRecords(iter([pb.ImportRecordsRequest(records=[unified("x")])])):
            pass
    assert refusal.fields == ["target"]
    assert refusal.metadata["message"] == "0"
    # One that ends at once has stored nothing.
    assert [response async for response in memories.ImportRecords(iter([]))] == []


async def test_a_namespace_that_was_never_written_to_is_an_empty_export(everywhere: Harness) -> None:
    origin, exported = await _export(stub(everywhere.channel()), "nobody")
    assert (origin.record_count, exported) == (0, [])
