"""Exports and imports in every store: all of it, once, and nothing of others."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.client.memory_file import Header, kind_name, read_header, read_records
from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from services.common.grpc.json_values import to_struct
from tests.integration.auth.support import refused
from tests.integration.memory.databricks_support import make_indexes, use_workspace
from tests.integration.memory.pgvector_support import database_message, front_of, serve_with_databases, use_database
from tests.integration.memory.support import MODEL, place, stub, unified
from tests.support.harness import ALICE, Harness
from tests.support.harness import BOB as LEGAL
from tests.support.vector_search_emulator import VectorSearchEmulator

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


async def _file(memories: Any, kind: int = record_pb2.MEMORY_KIND_UNIFIED) -> bytes:
    """Export a namespace with its vectors, and return the file that the command line would write."""
    namespace = place("" if kind == record_pb2.MEMORY_KIND_DOCUMENT else "crew", kind)
    request = pb.ExportRecordsRequest(
        namespace=namespace,
        include_embeddings=True,
        filter=pb.RecordFilter(include_private=kind == record_pb2.MEMORY_KIND_UNIFIED),
    )
    lines = [Header(namespace, MODEL, embeddings=True).line()]
    async for response in memories.ExportRecords(request):
        lines += [json.dumps(MessageToDict(record, preserving_proto_field_name=True)) for record in response.records]
    return "\n".join(lines).encode()


def _read(file: bytes) -> tuple[pb.Namespace, dict[str, record_pb2.Record]]:
    source = io.BytesIO(file)
    header = read_header("file", source)
    entries = read_records("file", source, header.namespace.kind, keep_vectors=header.embeddings)
    return header.namespace, {entry.record.id: entry.record for entry in entries}


async def _take_in(memories: Any, file: bytes) -> None:
    namespace, records = _read(file)
    target = pb.ImportTarget(namespace=namespace, embedding_model=MODEL)
    requests = [pb.ImportRecordsRequest(target=target, records=records.values())]
    [response] = [response async for response in memories.ImportRecords(iter(requests))]
    assert response.created + response.replaced == len(records)


def _without(record: record_pb2.Record, *fields: str) -> dict[str, Any]:
    found = MessageToDict(record, preserving_proto_field_name=True)
    return {name: value for name, value in found.items() if name not in fields}


async def test_a_file_of_another_group_makes_records_of_who_imports_it(everywhere: Harness) -> None:
    sales, legal, olaf = (stub(everywhere.channel(bearer)) for bearer in (ALICE, LEGAL, "dev:olaf:legal=operator"))
    vector = [1.0] + [0.0] * 31
    await _import(
        sales, [unified("open", "a"), unified("mine", "b", private=True), unified("c", "c", embedding=vector)]
    )
    file = await _file(sales)
    assert set(_read(file)[1]) == {"a", "b", "c"}
    with refused(grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await _take_in(olaf, file)
    assert _read(await _file(legal))[1] == {}
    # An editor imports for the owners that the file names.
    await _take_in(legal, file)
    theirs = _read(await _file(legal))[1]
    assert {record.id: record.unified for record in theirs.values()} == {
        record.id: record.unified for record in _read(file)[1].values()
    }
    # And nothing that is done to them happens to those that were exported.
    await _import(legal, [unified("changed", "a")])
    await legal.DeleteRecords(pb.DeleteRecordsRequest(namespace=place(), ids=["b", "c"]))
    assert await _file(sales) == file
    await legal.ClearNamespace(pb.ClearNamespaceRequest(namespace=place()))
    assert await _file(sales) == file


async def test_records_are_the_same_after_they_have_been_in_every_store(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [f"dev:alice:{group}=admin" for group in ("sales", "legal", "press", "home")]
    created, expires = (Timestamp(seconds=seconds, nanos=123_456_000) for seconds in (1_000_000_000, 4_000_000_000))
    metadata = to_struct({"n": 2**53 - 1, "x": -0.5, "deep": [{"é": None}, True, "\U0001f6a2"], "": "empty"})
    common: dict[str, Any] = {
        "agent_id": "harbour master",
        "llm_model": "m",
        "tools_used": ["a", "b"],
        "metadata": metadata,
        "create_time": created,
        "expire_time": expires,
    }
    given = [
        record_pb2.Record(
            id="u",
            unified=record_pb2.UnifiedRecord(
                content='\ufeff lines\n\t\u202e of "all" kinds\' \U0001f6a2',
                scope="/a/b",
                categories=["c", "ä"],
                importance=0.3,
                source="s",
                private=True,
                session_id="session",
                last_accessed=created,
            ),
            **common,
        ),
        record_pb2.Record(id="plain", unified=record_pb2.UnifiedRecord(content="plain")),
        record_pb2.Record(
            id="s",
            short_term=record_pb2.ShortTermRecord(
                content="said", query_text="asked", session_id="s", interaction_sequence=7, ttl_hours=87600
            ),
            **{**common, "create_time": Timestamp(seconds=1_790_000_000)},
        ),
        record_pb2.Record(
            id="l",
            long_term=record_pb2.LongTermRecord(
                content="learnt", task_description="task", quality=7.5, importance=0.7, last_accessed=created
            ),
            **common,
        ),
        record_pb2.Record(
            id="e",
            entity=record_pb2.EntityRecord(
                entity_name="Ann",
                entity_type="person",
                description="knows ships",
                relationships=[record_pb2.Relationship(relation="steers", target="Argo")],
            ),
            **common,
        ),
        record_pb2.Record(
            id="d#3.1",
            document=record_pb2.DocumentRecord(
                title="t",
                content="part",
                source="s",
                document_type="text/plain",
                section="1 > 2",
                chunk_index=1,
                chunk_size=4,
                parent_document_id="d",
                document_summary="summary",
                agent_ids=["b", "a"],
                update_time=created,
                page=2,
                start_character=9,
                document_revision=3,
                part_count=2,
            ),
            **common,
        ),
    ]
    with VectorSearchEmulator() as vectors:
        monkeypatch.setenv("DATABRICKS_HOST", vectors.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-operator")
        make_indexes(vectors)
        times: Any = {"databricks_visibility_seconds": 0.01, "databricks_settle_seconds": 0}
        async with (
            front_of(pgvector_url, tmp_path, monkeypatch) as front,
            serve_with_databases(tmp_path, **times) as harness,
        ):
            await use_database(harness, database_message(front, pgvector_url), groups[1], provision=False)
            await use_workspace(harness, vectors.url, groups[2])
            first, *others = [stub(harness.channel(group)) for group in groups]
            for record in given:
                kind = record_pb2.MemoryKind.Value(f"MEMORY_KIND_{str(record.WhichOneof('kind')).upper()}")
                name = place("" if record.HasField("document") else "crew", kind)
                await first.SaveRecords(pb.SaveRecordsRequest(namespace=name, records=[record]))
            for kind in list(record_pb2.MemoryKind.values())[1:]:
                before = file = await _file(first, kind)
                for memories in others:
                    await _take_in(memories, file)
                    file = await _file(memories, kind)
                expected, found = _read(before)[1], _read(file)[1]
                assert set(found) == {record.id for record in given if record.WhichOneof("kind") == kind_name(kind)}
                for record_id, record in found.items():
                    left = ("embedding", "revision")
                    assert _without(record, *left) == _without(expected[record_id], *left)
                    assert list(record.embedding) == pytest.approx(list(expected[record_id].embedding), abs=1e-6)


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
