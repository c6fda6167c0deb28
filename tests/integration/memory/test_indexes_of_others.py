"""Indexes that something else fills, over gRPC: rows by other programs, and tables that an index follows."""

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config

from coxswain.memory.v1 import memory_backend_pb2 as backend_pb
from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from coxswain.memory.v1 import vector_index_pb2 as index_pb
from services.common.errors import Unavailable
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.usecases import index_adoption
from tests.integration.auth.support import refused
from tests.integration.memory.databricks_support import (
    ENDPOINT,
    KINDS,
    World,
    backend_message,
    backends_stub,
    index_name,
    indexes_stub,
    make_indexes,
    use_workspace,
)
from tests.integration.memory.support import DIMENSION, place, stub, unified
from tests.support.databricks_http import ApiFault
from tests.support.harness import ALICE, BOB
from tests.support.text_vectors import embed_text
from tests.support.vector_search_emulator import VectorSearchEmulator
from tests.support.vector_search_table import VectorTable

CODE = grpc.StatusCode
TEXTS = {"content": "foreign", "entity_name": "foreign"}


def foreign(kind: str, row_id: str = "plain-1", **values: Any) -> dict[str, Any]:
    """Return a row as another program writes it: with few columns, and no envelope."""
    own = {"id": row_id, "group_id": "sales", "crew_id": "crew", "embedding": embed_text("foreign", DIMENSION), **TEXTS}
    schema = DatabricksIndexSchemas.get_schema(kind)
    return {name: value for name, value in own.items() if name in schema} | values


def put(vectors: VectorSearchEmulator, index: str, *rows: dict[str, Any]) -> None:
    """Write rows past the service."""
    for row in rows:
        vectors._indexes[index].table.put(row)


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_foreign_row_of_every_kind_is_found_read_and_removed(world: World, kind: str) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    memories, indexes = stub(world.harness.channel()), indexes_stub(world.harness)
    memory_id = "" if kind == "document" else "crew"
    namespace = place(memory_id, record_pb2.MemoryKind.Value(f"MEMORY_KIND_{kind.upper()}"))
    put(world.vectors, index_name(kind), foreign(kind), foreign(kind, "unreadable", content=None, entity_name=None))
    put(world.vectors, index_name(kind), foreign(kind, "theirs", group_id="legal"))
    query = embed_text("foreign", DIMENSION)
    similar = await indexes.SimilaritySearch(
        index_pb.SimilaritySearchRequest(index=index_name(kind), query_vector=query)
    )
    assert [(hit.record.id, hit.memory_id) for hit in similar.records] == [("plain-1", memory_id)]
    assert similar.unreadable_records == 1
    found = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=namespace, text="foreign"))
    assert [result.record.id for result in found.results] == ["plain-1"]
    assert found.unreadable_records == 1
    listed = await memories.ListRecords(pb.ListRecordsRequest(namespace=namespace))
    assert ([record.id for record in listed.records], listed.unreadable_records) == (["plain-1"], 1)
    got = await memories.GetRecord(pb.GetRecordRequest(namespace=namespace, id="plain-1"))
    assert not got.record.HasField("create_time")
    deleted = await memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=namespace, ids=["plain-1"]))
    assert deleted.deleted == 1
    remove = index_pb.DeleteIndexRecordsRequest(
        index=index_name(kind), memory_id=memory_id, ids=["unreadable", "theirs"]
    )
    assert (await indexes.DeleteIndexRecords(remove)).accepted == 2
    assert [row["id"] for row in world.vectors.rows(index_name(kind))] == ["theirs"]


async def test_rows_of_no_crew_are_removed_by_their_primary_keys_and_those_of_others_stay(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    indexes = indexes_stub(world.harness)
    rows = [foreign("unified", "none", crew_id=None), foreign("unified", "theirs", group_id="legal")]
    put(world.vectors, index_name(), *rows)
    request = index_pb.DeleteIndexRecordsRequest(index=index_name(), ids=["none", "theirs"])
    assert (await indexes.DeleteIndexRecords(request)).accepted == 2
    assert [row["id"] for row in world.vectors.rows(index_name())] == ["theirs"]


async def test_writing_under_the_id_of_a_foreign_row_replaces_it(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    put(world.vectors, index_name(), foreign("unified"))
    record = unified("new", "plain-1", embedding=embed_text("new", DIMENSION))
    upsert = index_pb.UpsertIndexRecordsRequest(index=index_name(), memory_id="crew", records=[record])
    await indexes_stub(world.harness).UpsertIndexRecords(upsert)
    assert [(row["id"], row["content"]) for row in world.vectors.rows(index_name())] == [("plain-1", "new")]


async def _verify(world: World, backend_id: str) -> dict[str, backend_pb.MemoryBackendCheck]:
    request = backend_pb.VerifyMemoryBackendRequest(id=backend_id)
    answer = await backends_stub(world.harness).VerifyMemoryBackend(request)
    return {check.subject: check for check in answer.checks}


async def test_verify_tells_which_rows_cannot_be_read_and_how_to_remove_them(world: World) -> None:
    make_indexes(world.vectors)
    (backend_id,) = await use_workspace(world.harness, world.url, ALICE)
    put(world.vectors, index_name(), foreign("unified"), foreign("unified", "bad-1", content=None))
    put(world.vectors, index_name(), foreign("unified", "theirs", group_id="legal", content=None))
    check = (await _verify(world, backend_id))[f"rows of index {index_name()}"]
    assert not check.ok
    assert "1 of 2 cannot be read" in check.finding
    assert "'bad-1': its content is empty" in check.finding
    assert "theirs" not in check.finding
    assert "DeleteIndexRecords" in check.remedy
    remove = index_pb.DeleteIndexRecordsRequest(index=index_name(), ids=["bad-1"])
    await indexes_stub(world.harness).DeleteIndexRecords(remove)
    assert f"rows of index {index_name()}" not in await _verify(world, backend_id)


async def test_an_endpoint_is_made_for_as_many_queries_as_its_backend_says(world: World) -> None:
    backends = backends_stub(world.harness)
    create = backend_pb.CreateMemoryBackendRequest(backend=backend_message(world.url, target_qps=250))
    backend = (await backends.CreateMemoryBackend(create)).backend
    assert backend.databricks.target_qps == 250
    request = backend_pb.ProvisionMemoryBackendRequest(id=backend.id)
    assert [step async for step in backends.ProvisionMemoryBackend(request)]
    (made,) = world.vectors.requests(method="POST", path="/vector-search/endpoints")
    assert made.body["target_qps"] == 250


# How scores are computed


@pytest.mark.parametrize(
    ("score", "text"),
    [
        ("SQUARED_DISTANCE", "1 / (1 + d²)"),
        ("DISTANCE", "1 / (1 + d)"),
        ("COSINE", "the cosine"),
        ("SHIFTED_COSINE", "(1 + cosine similarity) / 2"),
    ],
)
async def test_verify_measures_how_scores_are_computed_and_searches_rely_on_it(
    world: World, score: Any, text: str
) -> None:
    make_indexes(world.vectors)
    (backend_id,) = await use_workspace(world.harness, world.url, ALICE)
    world.vectors.behaviour.score = score
    assert "were not measured" in (await _verify(world, backend_id))["scores"].finding
    axis, across = [1.0] + [0.0] * (DIMENSION - 1), [0.6, 0.8] + [0.0] * (DIMENSION - 2)
    memories = stub(world.harness.channel())
    records = [unified("same", "same", embedding=axis), unified("near", "near", embedding=across)]
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))
    check = (await _verify(world, backend_id))["scores"]
    assert check.ok
    assert text in check.finding
    request = pb.SearchRecordsRequest(namespace=place(), vector=pb.Vector(values=axis))
    found = (await memories.SearchRecords(request)).results
    assert [result.similarity for result in found] == pytest.approx([1.0, 0.6], abs=1e-3)
    for least, count in ((0.59, 2), (0.61, 1)):
        request.min_score = least
        assert len((await memories.SearchRecords(request)).results) == count
    # A change of other things of the backend keeps what was measured.
    change = backend_pb.UpdateMemoryBackendRequest(id=backend_id, backend=backend_pb.MemoryBackend(name="renamed"))
    change.update_mask.paths.append("name")
    await backends_stub(world.harness).UpdateMemoryBackend(change)
    request.min_score = 0.59
    assert len((await memories.SearchRecords(request)).results) == 2


async def test_verify_shows_scores_that_fit_no_formula(world: World) -> None:
    make_indexes(world.vectors)
    (backend_id,) = await use_workspace(world.harness, world.url, ALICE)
    await stub(world.harness.channel()).SaveRecords(
        pb.SaveRecordsRequest(namespace=place(), records=[unified("a", "a")])
    )
    world.vectors.behaviour.score = "NEGATIVE_DISTANCE"
    checks = await _verify(world, backend_id)
    assert not checks["scores"].ok
    assert "at the cosine 0.8" in checks["scores"].finding


# Indexes that follow a table


def follow(vectors: VectorSearchEmulator, *rows: dict[str, Any]) -> None:
    """Make the index for unified memories one that follows a table with these rows."""
    make_indexes(vectors)
    del vectors._indexes[index_name()]
    vectors.add_table("main.memories.source", DatabricksIndexSchemas.get_schema("unified"), DIMENSION, rows)
    spec = {
        "source_table": "main.memories.source",
        "pipeline_type": "TRIGGERED",
        "embedding_vector_columns": [{"name": "embedding", "embedding_dimension": DIMENSION}],
    }
    body = {"name": index_name(), "index_type": "DELTA_SYNC", "primary_key": "id", "endpoint_name": ENDPOINT}
    index = vectors._new_index(body | {"delta_sync_index_spec": spec}, creator="admin")
    vectors._advance_index(index)


async def test_an_index_that_follows_a_table_is_searched_and_never_written_to(world: World) -> None:
    follow(world.vectors, foreign("unified"))
    (backend_id,) = await use_workspace(world.harness, world.url, ALICE)
    memories, indexes = stub(world.harness.channel()), indexes_stub(world.harness)
    described = (await indexes.DescribeIndex(index_pb.DescribeIndexRequest(index=index_name()))).index
    assert (described.source_table, described.embedding_dimension) == ("main.memories.source", DIMENSION)
    found = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="foreign"))
    assert [result.record.id for result in found.results] == ["plain-1"]
    assert (await memories.CountRecords(pb.CountRecordsRequest(namespace=place()))).count == 1
    assert len((await memories.ListRecords(pb.ListRecordsRequest(namespace=place()))).records) == 1
    check = (await _verify(world, backend_id))[f"index {index_name()}"]
    assert check.ok
    assert "can be read only" in check.finding
    record = unified("text", "r", embedding=embed_text("text", DIMENSION))
    confirmed = {"index": index_name(), "confirm_name": index_name()}
    world.vectors.clear_log()
    calls: tuple[Callable[[], Any], ...] = (
        lambda: memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[record])),
        lambda: memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=place(), ids=["plain-1"])),
        lambda: memories.TouchRecords(pb.TouchRecordsRequest(namespace=place(), ids=["plain-1"])),
        lambda: memories.ClearNamespace(pb.ClearNamespaceRequest(namespace=place())),
        lambda: indexes.UpsertIndexRecords(
            index_pb.UpsertIndexRecordsRequest(index=index_name(), memory_id="crew", records=[record])
        ),
        lambda: indexes.DeleteIndexRecords(
            index_pb.DeleteIndexRecordsRequest(index=index_name(), memory_id="crew", ids=["plain-1"])
        ),
        lambda: indexes.EmptyIndex(index_pb.EmptyIndexRequest(**confirmed)).read(),
    )
    for call in calls:
        with refused(CODE.FAILED_PRECONDITION, "INDEX_READ_ONLY") as refusal:
            await call()
        assert refusal.metadata["source_table"] == "main.memories.source"
    assert world.vectors.log == []


# Answers that are none, and indexes that are gone


@pytest.mark.parametrize("answer", ["{}", '{"manifest":{"columns":[{"name":"id"}]},"result":{"row_count":1}}'])
async def test_a_spoilt_answer_never_counts_as_nothing(world: World, answer: str) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    memories, indexes = stub(world.harness.channel()), indexes_stub(world.harness)
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("text", "r")]))
    empty = index_pb.EmptyIndexRequest(index=index_name(), confirm_name=index_name())
    query = embed_text("text", DIMENSION)
    # Once: it is asked again.
    world.vectors.fail(ApiFault(path="/query", status=200, body=answer))
    similar = await indexes.SimilaritySearch(index_pb.SimilaritySearchRequest(index=index_name(), query_vector=query))
    assert len(similar.records) == 1
    # Always: it is a failure that says when to come back.
    world.vectors.fail(ApiFault(path="/query", status=200, body=answer, times=None))
    calls: tuple[Callable[[], Any], ...] = (
        lambda: indexes.SimilaritySearch(index_pb.SimilaritySearchRequest(index=index_name(), query_vector=query)),
        lambda: indexes.CountIndexRecords(index_pb.CountIndexRecordsRequest(index=index_name())),
        lambda: memories.ClearNamespace(pb.ClearNamespaceRequest(namespace=place())),
        lambda: indexes.EmptyIndex(empty).read(),
    )
    for call in calls:
        with refused(CODE.UNAVAILABLE, "STORE_FAILED") as refusal:
            await call()
        assert refusal.retry_seconds is not None
    assert len(world.vectors.rows(index_name())) == 1


async def test_an_answer_with_columns_and_no_rows_is_nothing(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    body = '{"manifest":{"columns":[{"name":"id"}]},"result":{"row_count":0}}'
    world.vectors.fail(ApiFault(path="/query", status=200, body=body))
    request = index_pb.CountIndexRecordsRequest(index=index_name())
    assert (await indexes_stub(world.harness).CountIndexRecords(request)).count == 0


async def test_a_missing_index_is_named_and_keeps_no_namespace_of_others_from_being_listed(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    memories = stub(world.harness.channel())
    entity = record_pb2.MEMORY_KIND_ENTITY
    person = record_pb2.Record(entity=record_pb2.EntityRecord(entity_name="Ann"))
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(kind=entity), records=[person]))
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("text", "r")]))
    name = index_name("entity")
    remove = index_pb.DeleteIndexRequest(index=name, confirm_name=name)
    await indexes_stub(world.harness).DeleteIndex(remove)
    listed = (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces
    assert {info.namespace.kind: (info.record_count, info.problem) for info in listed} == {
        entity: (0, f"index {name} does not exist"),
        record_pb2.MEMORY_KIND_UNIFIED: (1, ""),
    }
    for call in (
        memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(kind=entity), text="Ann")),
        memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(kind=entity), records=[person])),
    ):
        with refused(CODE.FAILED_PRECONDITION, "INDEX_NOT_READY") as refusal:
            await call
        assert refusal.metadata["index"] == name


async def test_a_list_of_namespaces_counts_with_one_request_each(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    memories = stub(world.harness.channel())
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("text", "r")]))
    key = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
    put(world.vectors, index_name(), *(foreign("unified", key.stored_id(f"{n}")) for n in range(1200)))
    world.vectors.clear_log()
    (info,) = (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces
    assert (info.record_count, info.record_count_at_least) == (1000, True)
    assert len(world.vectors.requests(path="/query")) == 1


# Taking an index over


OLD = "main.memories.old"


async def _adopt(world: World, *channel: Any, **fields: Any) -> list[index_pb.AdoptIndexResponse]:
    request = index_pb.AdoptIndexRequest(
        index=OLD, backend_name="workspace", kind=record_pb2.MEMORY_KIND_UNIFIED, **fields
    )
    return [step async for step in indexes_stub(world.harness, *channel).AdoptIndex(request)]


async def _old_index(world: World, *rows: dict[str, Any], dimension: int = DIMENSION) -> None:
    """Have an index that nothing here names, beside a backend of sales that has none for unified memories."""
    world.vectors.add_endpoint(ENDPOINT)
    world.vectors.add_index(OLD, ENDPOINT, DatabricksIndexSchemas.get_schema("unified"), dimension)
    put(world.vectors, OLD, *rows)
    backends = backends_stub(world.harness)
    message = backend_message(world.url, indexes=[])
    await backends.CreateMemoryBackend(backend_pb.CreateMemoryBackendRequest(backend=message))
    await backends.ActivateMemoryBackend(backend_pb.ActivateMemoryBackendRequest(name="workspace"))


async def test_an_index_of_an_older_backend_is_taken_over_with_a_report(world: World) -> None:
    crew_of_others = "0198c9a4-3f6e-7cc3-98c4-dc0c0c07398f"
    await _old_index(
        world,
        *(foreign("unified", f"row-{n}", embedding_model="embed") for n in range(3)),
        foreign("unified", "bad", content=""),
        foreign("unified", "uuid", crew_id=crew_of_others),
        foreign("unified", "theirs", group_id="legal"),
    )
    before = world.vectors.rows(OLD)
    for dry_run in (True, False):
        steps = await _adopt(world, dry_run=dry_run)
        assert steps[0].step == "reading"
        assert (steps[-2].done, steps[-2].total) == (6, 6)
        report = steps[-1].report
        assert (report.readable, report.unreadable, report.changed, report.of_others) == (4, 1, 0, 1)
        assert [(row.primary_key, row.reason) for row in report.unreadable_rows] == [("bad", "its content is empty")]
        assert [(memory.memory_id, memory.record_count) for memory in report.memories] == [
            ("crew", 3),
            (crew_of_others, 1),
        ]
        assert "memory_ids" in report.memories[1].problem
        listed = await indexes_stub(world.harness).ListIndexes(index_pb.ListIndexesRequest())
        assert [info.index for info in listed.indexes] == ([] if dry_run else [OLD])
    assert world.vectors.rows(OLD) == before
    memories = stub(world.harness.channel())
    found = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="foreign"))
    assert {result.record.id for result in found.results} == {"row-0", "row-1", "row-2"}
    (namespace,) = (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces
    assert (namespace.namespace.memory_id, namespace.record_count) == ("crew", 4)


async def test_other_ids_of_rows_are_changed_where_they_are_and_the_rest_stays(world: World) -> None:
    own = NamespaceKey("old-group", "c", MemoryKind.UNIFIED).stored_id("r")
    written = foreign("unified", own, group_id="old-group", crew_id="c", metadata='{"_coxswain":{"id":"r"}}')
    rows = [foreign("unified", f"row-{n}", group_id="old-group", crew_id="old crew", importance=0.5) for n in range(3)]
    others = [foreign("unified", "theirs", group_id="legal"), written]
    await _old_index(world, *rows, *others)
    for _ in range(2):
        steps = await _adopt(world, from_group="old-group", memory_ids={"old crew": "crew"})
        assert steps[-1].report.readable == 3
    stored = {row["id"]: row for row in world.vectors.rows(OLD)}
    for row in rows:
        changed = {"group_id": "sales", "crew_id": "crew"}
        assert {name: stored[row["id"]][name] for name in row} == row | changed | {
            "embedding": stored[row["id"]]["embedding"]
        }
        assert stored[row["id"]]["embedding"] == pytest.approx(row["embedding"], abs=1e-7)
    # What this service has written for a group stays that group's.
    assert {stored[row["id"]]["group_id"] for row in others} == {"legal", "old-group"}


async def test_an_adoption_that_breaks_off_is_finished_by_the_next_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _old_index(world, *(foreign("unified", f"row-{n}", group_id="old-group", crew_id="old") for n in range(5)))
    write, written = DatabricksVectorIndexRepository.write_rows, list[int]()

    async def break_off(repository: DatabricksVectorIndexRepository, index: str, rows: Any) -> None:
        if written:
            raise Unavailable("the workspace is gone")
        written.append(len(rows))
        await write(repository, index, rows)

    asked: dict[str, Any] = {"from_group": "old-group", "memory_ids": {"old": "crew"}}
    with monkeypatch.context() as patched:
        patched.setattr(index_adoption, "_WRITTEN_AT_ONCE", 2)
        patched.setattr(DatabricksVectorIndexRepository, "write_rows", break_off)
        with refused(CODE.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
            await _adopt(world, **asked)
    assert not (await indexes_stub(world.harness).ListIndexes(index_pb.ListIndexesRequest())).indexes
    assert sorted(row["crew_id"] for row in world.vectors.rows(OLD)) == ["crew"] * 2 + ["old"] * 3
    for changed in (3, 0):
        report = (await _adopt(world, **asked))[-1].report
        assert (report.readable, report.changed, report.of_others) == (5, changed, 0)
        assert {(row["group_id"], row["crew_id"]) for row in world.vectors.rows(OLD)} == {("sales", "crew")}
    listed = await stub(world.harness.channel()).ListRecords(pb.ListRecordsRequest(namespace=place()))
    assert sorted(record.id for record in listed.records) == [f"row-{n}" for n in range(5)]


@pytest.mark.parametrize("memory_ids", [{"a": "b", "b": "c"}, {"a": "b", "b": "a"}])
async def test_ids_that_a_repeated_adoption_would_change_again_are_refused(
    world: World, memory_ids: dict[str, str]
) -> None:
    await _old_index(world, foreign("unified", "of-a", crew_id="a"), foreign("unified", "of-b", crew_id="b"))
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await _adopt(world, memory_ids=memory_ids)
    assert refusal.fields == ["memory_ids"]
    assert {row["id"]: row["crew_id"] for row in world.vectors.rows(OLD)} == {"of-a": "a", "of-b": "b"}
    for _ in range(2):
        await _adopt(world, memory_ids={"a": "c", "b": "c", "c": "c"})
    assert {row["crew_id"] for row in world.vectors.rows(OLD)} == {"c"}


async def test_rows_of_a_job_with_the_official_client_are_taken_over_found_and_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _old_index(world)
    bare = {"group_id": "sales", "crew_id": "crew", "embedding": embed_text("foreign", DIMENSION)}
    ids = ["plain", "it's", 'a "b"', "%_", "a\\b", "日本 ünï", "a/b?c#d", " ", "-", "x" * 256, "crew#1.0"]
    rows: list[dict[str, object]] = [{"id": name, "content": f"foreign {n}", **bare} for n, name in enumerate(ids)]
    rows[1] |= {"metadata": "[1, 2]", "categories": '"x"', "importance": 7, "created_at": "2026-01-02 03:04:05"}
    rows[2] |= {"metadata": None, "categories": None, "created_at": None, "scope": None, "private": None}
    unreadable = [{"id": "textless", "content": None, **bare}, {"id": "columnless", **bare}]
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", os.devnull)
    client = WorkspaceClient(config=Config(host=world.url, token="x", auth_type="pat", http_timeout_seconds=30))
    write = client.vector_search_indexes.upsert_data_vector_index
    stored = await asyncio.to_thread(write, OLD, json.dumps([*rows, *unreadable]))
    assert stored.result is not None
    assert not stored.result.failed_primary_keys
    monkeypatch.setenv("DATABRICKS_HOST", world.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-operator")
    for _ in range(2):
        report = (await _adopt(world))[-1].report
        assert (report.readable, report.unreadable, report.changed) == (len(ids), 2, 0)
    memories = stub(world.harness.channel())
    found = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="foreign", limit=50))
    assert (sorted(result.record.id for result in found.results), found.unreadable_records) == (sorted(ids), 2)
    listed = await memories.ListRecords(pb.ListRecordsRequest(namespace=place(), page_size=50))
    assert sorted(record.id for record in listed.records) == sorted(ids)
    for name in ids:
        record = (await memories.GetRecord(pb.GetRecordRequest(namespace=place(), id=name))).record
        assert record.id == name
        removed = await memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=place(), ids=[name]))
        assert removed.deleted == 1
    request = index_pb.DeleteIndexRecordsRequest(index=OLD, ids=["textless", "columnless"])
    await indexes_stub(world.harness).DeleteIndexRecords(request)
    assert world.vectors.rows(OLD) == []


async def test_rows_that_cannot_be_written_again_keep_their_ids_and_hold_up_no_others(world: World) -> None:
    rows = [foreign("unified", name, group_id="old-group", importance=0.5) for name in ("good", "nan", "vectorless")]
    rows[1]["importance"] = float("nan")
    rows[2]["embedding"] = [float("nan")] * DIMENSION
    await _old_index(world, *rows)
    report = (await _adopt(world, from_group="old-group"))[-1].report
    assert (report.readable, report.changed, report.of_others) == (1, 1, 2)
    groups = {row["id"]: row["group_id"] for row in world.vectors.rows(OLD)}
    assert groups == {"good": "sales", "nan": "old-group", "vectorless": "old-group"}


async def test_rows_of_a_group_that_is_known_here_are_never_taken_over(world: World) -> None:
    await _old_index(world, foreign("unified", "theirs", group_id="legal"))
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await _adopt(world, from_group="0198c9a4-3f6e-7cc3-98c4-dc0c0c07398f")
    legal = stub(world.harness.channel(BOB))
    await legal.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("at home", "r")]))
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await _adopt(world, from_group="legal")
    message = backend_message(
        world.url, "theirs", indexes=[backend_pb.KindIndex(kind=record_pb2.MEMORY_KIND_UNIFIED, index="OLD")]
    )
    create = backend_pb.CreateMemoryBackendRequest(backend=message)
    await backends_stub(world.harness, BOB).CreateMemoryBackend(create)
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await _adopt(world, from_group="nobody")
    assert [row["group_id"] for row in world.vectors.rows(OLD)] == ["legal"]
    # It is one index however its name is written.
    await _adopt(world)
    (listed,) = (await indexes_stub(world.harness).ListIndexes(index_pb.ListIndexesRequest())).indexes
    assert (listed.index, listed.shared) == (OLD, True)


async def test_every_memory_of_an_index_is_registered_and_the_most_common_ones_are_reported(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_adoption, "_MOST_MEMORIES", 2)
    memory_ids = ["a", "a", "a", "b", "b", "c", "d\0"]
    await _old_index(world, *(foreign("unified", f"r{n}", crew_id=name) for n, name in enumerate(memory_ids)))
    for _ in range(2):
        report = (await _adopt(world))[-1].report
        assert [memory.memory_id for memory in report.memories] == ["a", "b"]
    listed = await stub(world.harness.channel()).ListNamespaces(pb.ListNamespacesRequest())
    assert [info.namespace.memory_id for info in listed.namespaces] == ["a", "b", "c"]


async def test_two_kinds_never_share_an_index_however_its_name_is_written(world: World) -> None:
    kinds = [
        backend_pb.KindIndex(kind=record_pb2.MEMORY_KIND_UNIFIED, index="old"),
        backend_pb.KindIndex(kind=record_pb2.MEMORY_KIND_ENTITY, index="Old"),
    ]
    create = backend_pb.CreateMemoryBackendRequest(backend=backend_message(world.url, indexes=kinds))
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await backends_stub(world.harness).CreateMemoryBackend(create)


async def test_an_index_that_does_not_fit_is_not_taken_over(world: World) -> None:
    await _old_index(world, foreign("unified", embedding_model="another/model"))
    with refused(CODE.FAILED_PRECONDITION, "EMBEDDING_MISMATCH") as refusal:
        await _adopt(world)
    assert refusal.metadata["expected_model"] == "another/model"
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await _adopt(world, memory_ids={"a": "0198c9a4-3f6e-7cc3-98c4-dc0c0c07398f"})
    world.vectors.add_index("main.memories.narrow", ENDPOINT, {"id": "string", "embedding": "array<float>"}, 3)
    request = index_pb.AdoptIndexRequest(
        index="main.memories.narrow", backend_name="workspace", kind=record_pb2.MEMORY_KIND_ENTITY
    )
    with refused(CODE.FAILED_PRECONDITION, "INDEX_NOT_READY") as refusal:
        await indexes_stub(world.harness).AdoptIndex(request).read()
    assert "3 components" in refusal.message
    assert "lacks the columns" in refusal.message
    request.index = "main.memories.none"
    with refused(CODE.FAILED_PRECONDITION, "INDEX_NOT_READY"):
        await indexes_stub(world.harness).AdoptIndex(request).read()
    assert not (await indexes_stub(world.harness).ListIndexes(index_pb.ListIndexesRequest())).indexes


# Words


async def test_a_workspace_finds_words_of_the_groups_own_records_alone(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    put(world.vectors, index_name(), foreign("unified", "one", content="order AB-17 is late"))
    put(world.vectors, index_name(), foreign("unified", "two", content="the weather is fine"))
    put(world.vectors, index_name(), foreign("unified", "theirs", content="order AB-17", group_id="legal"))
    put(world.vectors, index_name(), foreign("unified", "private", content="order AB-17", private=True))
    memories = stub(world.harness.channel())
    for mode, ids in ((pb.SEARCH_MODE_TEXT, ["one"]), (pb.SEARCH_MODE_HYBRID, ["one", "two"])):
        request = pb.SearchRecordsRequest(namespace=place(), text="AB-17", mode=mode)
        assert [result.record.id for result in (await memories.SearchRecords(request)).results] == ids
    (asked,) = {e.body["query_text"] for e in world.vectors.requests(path="/query") if "query_text" in e.body}
    assert asked == "ab 17"


async def test_pages_of_words_continue_whatever_scores_a_workspace_gives(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = VectorTable.full_text

    def raw(self: VectorTable, *asked: Any) -> list[Any]:
        return [(place, 7.5 * score) for place, score in given(self, *asked)]

    monkeypatch.setattr(VectorTable, "full_text", raw)
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    texts = ["order AB-17", "order AB", "order of ab", "ab 17"]
    for number, text in enumerate(texts):
        put(world.vectors, index_name(), foreign("unified", f"r{number}", content=text))
    memories = stub(world.harness.channel())
    found: list[str] = []
    scores: list[float] = []
    request = pb.SearchRecordsRequest(namespace=place(), text="order AB-17", mode=pb.SEARCH_MODE_TEXT, limit=2)
    while not found or request.page_token:
        response = await memories.SearchRecords(request)
        found += [result.record.id for result in response.results]
        scores += [result.score for result in response.results]
        request.page_token = response.next_page_token
    assert sorted(found) == ["r0", "r1", "r2", "r3"]
    assert scores[0] == 1
    assert all(0 < score < 1 for score in scores[1:])
