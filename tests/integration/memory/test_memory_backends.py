"""MemoryBackendService and VectorIndexService over gRPC, beside an emulated workspace."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.auth.v1 import auth_service_pb2_grpc, credential_pb2
from coxswain.memory.v1 import memory_backend_pb2 as backend_pb
from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from coxswain.memory.v1 import vector_index_pb2 as index_pb
from services.auth.chains.sdk_default import SdkDefaultLink
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.settings import MemorySettings
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
from tests.integration.memory.support import DIMENSION, place, serve_memory, stub, unified
from tests.support.databricks_http import ApiFault, Caller
from tests.support.harness import ALICE, BOB
from tests.support.text_vectors import embed_text
from tests.support.vector_search_emulator import VectorSearchEmulator

CODE = grpc.StatusCode


def _vector(text: str) -> list[float]:
    return embed_text(text, DIMENSION)


async def test_a_group_moves_to_a_workspace_and_back_and_finds_in_each_what_it_saved_there(world: World) -> None:
    make_indexes(world.vectors)
    memories, backends = stub(world.harness.channel()), backends_stub(world.harness)

    async def contents() -> list[str]:
        response = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="a text"))
        return [result.record.unified.content for result in response.results]

    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("text at home", "r")]))
    (backend_id,) = await use_workspace(world.harness, world.url, ALICE)
    assert await contents() == []
    await memories.SaveRecords(
        pb.SaveRecordsRequest(namespace=place(), records=[unified("text in the workspace", "r")])
    )
    assert await contents() == ["text in the workspace"]
    response = await backends.ActivateMemoryBackend(backend_pb.ActivateMemoryBackendRequest(id="default"))
    assert not response.HasField("backend")
    assert await contents() == ["text at home"]
    await backends.ActivateMemoryBackend(backend_pb.ActivateMemoryBackendRequest(id=backend_id))
    assert await contents() == ["text in the workspace"]
    (row,) = world.vectors.rows(index_name())
    assert (row["group_id"], row["crew_id"], row["embedding_model"]) == ("sales", "crew", "test/embed")
    assert all(e.headers["authorization"] == "Bearer dapi-operator" for e in world.vectors.log)


async def test_every_kind_is_kept_in_its_own_index(world_on: World) -> None:
    make_indexes(world_on.vectors)
    await use_workspace(world_on.harness, world_on.url, ALICE)
    memories = stub(world_on.harness.channel())
    records = {
        "unified": unified("text", "r"),
        "short_term": record_pb2.Record(id="r", short_term=record_pb2.ShortTermRecord(content="text")),
        "long_term": record_pb2.Record(id="r", long_term=record_pb2.LongTermRecord(content="text", quality=3)),
        "entity": record_pb2.Record(
            id="r",
            entity=record_pb2.EntityRecord(
                entity_name="Ada", relationships=[record_pb2.Relationship(relation="knows", target="Charles")]
            ),
        ),
        "document": record_pb2.Record(
            id="r", document=record_pb2.DocumentRecord(content="text", document_summary="whole"), agent_id="reader"
        ),
    }
    for name, record in records.items():
        namespace = place(
            "" if name == "document" else "crew", record_pb2.MemoryKind.Value(f"MEMORY_KIND_{KINDS[name]}")
        )
        await memories.SaveRecords(pb.SaveRecordsRequest(namespace=namespace, records=[record]))
        got = (await memories.GetRecord(pb.GetRecordRequest(namespace=namespace, id="r"))).record
        found = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=namespace, text="text"))
        assert [result.record.id for result in found.results] == ["r"]
        assert got.WhichOneof("kind") == name
        assert got.agent_id == record.agent_id
        assert got.document.document_summary == record.document.document_summary
        assert got.entity.relationships == record.entity.relationships
        assert len(world_on.vectors.rows(index_name(name))) == 1
    listed = (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces
    assert sorted((info.namespace.kind, info.record_count) for info in listed) == [(kind, 1) for kind in range(1, 6)]


async def test_two_groups_share_an_index_and_never_meet(world_on: World) -> None:
    make_indexes(world_on.vectors)
    await use_workspace(world_on.harness, world_on.url, ALICE, BOB)
    for bearer in (ALICE, BOB):
        memories = stub(world_on.harness.channel(bearer))
        await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified(f"of {bearer}", "same")]))
    assert len(world_on.vectors.rows(index_name())) == 2
    alice, bob = (stub(world_on.harness.channel(bearer)) for bearer in (ALICE, BOB))
    for memories, bearer in ((alice, ALICE), (bob, BOB)):
        found = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="of", limit=100))
        assert [result.record.unified.content for result in found.results] == [f"of {bearer}"]
        assert (await memories.CountRecords(pb.CountRecordsRequest(namespace=place()))).count == 1
    indexes = indexes_stub(world_on.harness)
    described = await indexes.DescribeIndex(index_pb.DescribeIndexRequest(index=index_name()))
    assert described.index.shared
    progress = [
        step
        async for step in indexes.EmptyIndex(index_pb.EmptyIndexRequest(index=index_name(), confirm_name=index_name()))
    ]
    assert (progress[-1].finished, progress[-1].done) == (True, 1)
    assert (await bob.CountRecords(pb.CountRecordsRequest(namespace=place()))).count == 1
    assert (await alice.CountRecords(pb.CountRecordsRequest(namespace=place()))).count == 0
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await indexes.DeleteIndex(index_pb.DeleteIndexRequest(index=index_name(), confirm_name=index_name()))
    assert index_name() in world_on.vectors.index_names()


async def test_an_index_no_backend_of_the_group_names_does_not_exist_for_it(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    strange = indexes_stub(world.harness, BOB)
    record = unified("text", "r", embedding=_vector("text"))
    name = index_name()
    for call in (
        strange.UpsertIndexRecords(index_pb.UpsertIndexRecordsRequest(index=name, memory_id="crew", records=[record])),
        strange.SimilaritySearch(index_pb.SimilaritySearchRequest(index=name, query_vector=_vector("text"))),
        strange.DeleteIndexRecords(index_pb.DeleteIndexRecordsRequest(index=name, memory_id="crew", ids=["r"])),
        strange.CountIndexRecords(index_pb.CountIndexRecordsRequest(index=name)),
        strange.DescribeIndex(index_pb.DescribeIndexRequest(index=name)),
        strange.DeleteIndex(index_pb.DeleteIndexRequest(index=name, confirm_name=name)),
    ):
        with refused(CODE.NOT_FOUND, "INDEX_NOT_REGISTERED"):
            await call
    with refused(CODE.NOT_FOUND, "INDEX_NOT_REGISTERED"):
        async for _ in strange.EmptyIndex(index_pb.EmptyIndexRequest(index=name, confirm_name=name)):
            pass
    assert (await strange.ListIndexes(index_pb.ListIndexesRequest())).indexes == []
    assert len(world.vectors.rows(name)) == 0
    assert not world.vectors.requests(path="upsert-data")


async def test_records_are_written_found_counted_and_removed_in_an_index(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    indexes = indexes_stub(world.harness)
    name = index_name()
    texts = ["cats purr", "dogs bark", "birds sing"]
    for crew, records in (("a", texts), ("b", texts[:1])):
        written = await indexes.UpsertIndexRecords(
            index_pb.UpsertIndexRecordsRequest(
                index=name,
                memory_id=crew,
                records=[
                    unified(text, text[:4], embedding=_vector(text), importance=n / 2) for n, text in enumerate(records)
                ],
            )
        )
        assert list(written.ids) == [text[:4] for text in records]
    search = index_pb.SimilaritySearchRequest(index=name, memory_id="a", query_vector=_vector("cats purr"))
    found = await indexes.SimilaritySearch(search)
    assert found.records[0].record.id == "cats"
    assert found.records[0].score == pytest.approx(1.0, abs=1e-5)
    assert {hit.memory_id for hit in found.records} == {"a"}
    search.memory_id = ""
    search.min_score = 0.99
    both = await indexes.SimilaritySearch(search)
    assert sorted(hit.memory_id for hit in both.records) == ["a", "b"]
    heavy = record_pb2.Condition(
        column="importance",
        operator=record_pb2.COMPARISON_OPERATOR_GREATER_OR_EQUAL,
        values=[record_pb2.ConditionValue(number=0.5)],
    )
    count = index_pb.CountIndexRecordsRequest(index=name, memory_id="a", conditions=[heavy])
    assert (await indexes.CountIndexRecords(count)).count == 2
    removed = await indexes.DeleteIndexRecords(
        index_pb.DeleteIndexRecordsRequest(index=name, memory_id="a", ids=["cats", "never"])
    )
    assert removed.accepted == 2
    assert (await indexes.CountIndexRecords(index_pb.CountIndexRecordsRequest(index=name))).count == 3
    for fields, path in (
        ({"records": [unified("no vector", "r")]}, "records[0].embedding"),
        ({"records": [record_pb2.Record(short_term=record_pb2.ShortTermRecord(content="t"))]}, "records[0]"),
        ({"records": [unified("t", embedding=_vector("t"))], "memory_id": ""}, "memory_id"),
    ):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await indexes.UpsertIndexRecords(
                index_pb.UpsertIndexRecordsRequest(**({"index": name, "memory_id": "a"} | fields))
            )
        assert path in refusal.message
    with refused(CODE.FAILED_PRECONDITION, "EMBEDDING_MISMATCH"):
        await indexes.UpsertIndexRecords(
            index_pb.UpsertIndexRecordsRequest(index=name, memory_id="a", records=[unified("t", embedding=[1.0, 2.0])])
        )
    owner = record_pb2.Condition(column="group_id", values=[record_pb2.ConditionValue(text="legal")])
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await indexes.CountIndexRecords(index_pb.CountIndexRecordsRequest(index=name, conditions=[owner]))


async def test_private_records_in_an_index_are_neither_counted_nor_found_for_others(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    bob, olaf, editor = (
        f"dev:{name}:sales={role}" for name, role in (("bob", "operator"), ("olaf", "operator"), ("ed", "editor"))
    )
    records = [unified("secret", "s", private=True), unified("known", "k")]
    await stub(world.harness.channel(bob)).SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))

    def condition(column: str, operator: Any, **value: Any) -> record_pb2.Condition:
        return record_pb2.Condition(column=column, operator=operator, values=[record_pb2.ConditionValue(**value)])

    beginning = condition("content", record_pb2.COMPARISON_OPERATOR_STARTS_WITH, text="sec")
    private = condition("private", record_pb2.COMPARISON_OPERATOR_EQUAL, boolean=True)
    for conditions in ([beginning], [private], [private, beginning]):
        request = index_pb.CountIndexRecordsRequest(index=index_name(), conditions=conditions)
        search = index_pb.SimilaritySearchRequest(
            index=index_name(), query_vector=_vector("secret"), conditions=conditions
        )
        for bearer, count in ((olaf, 0), (bob, 1), (editor, 1)):
            indexes = indexes_stub(world.harness, bearer)
            assert (await indexes.CountIndexRecords(request)).count == count
            assert not (await indexes.SimilaritySearch(search)).records


async def _create(backends: Any, message: backend_pb.MemoryBackend, request_id: str = "") -> backend_pb.MemoryBackend:
    request = backend_pb.CreateMemoryBackendRequest(backend=message, request_id=request_id)
    created: backend_pb.MemoryBackend = (await backends.CreateMemoryBackend(request)).backend
    return created


async def test_backends_are_kept_changed_listed_and_removed_for_their_group_alone(world_on: World) -> None:
    alice, bob = backends_stub(world_on.harness), backends_stub(world_on.harness, BOB)
    sent = backend_message(f"{world_on.url.upper().replace('HTTP', 'http')}", "first")
    first = await _create(alice, sent, "request")
    assert first.databricks.workspace_url == world_on.url
    assert await _create(alice, sent, "request") == first
    with refused(CODE.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await _create(alice, backend_message(world_on.url, "other"), "request")
    with refused(CODE.ALREADY_EXISTS, "ALREADY_EXISTS"):
        await _create(alice, sent)
    plain = backend_pb.MemoryBackend(name="plain", default=backend_pb.DefaultBackendConfig())
    second = await _create(alice, plain)
    await _create(bob, backend_message(world_on.url, "first"))
    listed = await alice.ListMemoryBackends(backend_pb.ListMemoryBackendsRequest(page_size=1))
    rest = await alice.ListMemoryBackends(
        backend_pb.ListMemoryBackendsRequest(page_size=1, page_token=listed.next_page_token)
    )
    assert [*listed.backends, *rest.backends] == [first, second]
    assert not rest.next_page_token
    for call in (
        bob.GetMemoryBackend(backend_pb.GetMemoryBackendRequest(id=first.id)),
        bob.DeleteMemoryBackend(backend_pb.DeleteMemoryBackendRequest(id=first.id)),
        bob.ActivateMemoryBackend(backend_pb.ActivateMemoryBackendRequest(id=first.id)),
        bob.VerifyMemoryBackend(backend_pb.VerifyMemoryBackendRequest(id=first.id)),
        bob.UpdateMemoryBackend(
            backend_pb.UpdateMemoryBackendRequest(id=first.id, backend=first, update_mask=FieldMask(paths=["name"]))
        ),
    ):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await call
    first.name = "renamed"
    first.databricks.endpoint = "elsewhere"
    changed = await alice.UpdateMemoryBackend(
        backend_pb.UpdateMemoryBackendRequest(id=first.id, backend=first, update_mask=FieldMask(paths=["name"]))
    )
    assert (changed.backend.name, changed.backend.databricks.endpoint) == ("renamed", ENDPOINT)
    changed = await alice.UpdateMemoryBackend(
        backend_pb.UpdateMemoryBackendRequest(
            id=first.id, backend=first, update_mask=FieldMask(paths=["databricks.endpoint"])
        )
    )
    assert (changed.backend.databricks.endpoint, changed.backend.databricks.catalog) == ("elsewhere", "main")
    for path in ("id", "active", "create_time", "nonsense"):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
            await alice.UpdateMemoryBackend(
                backend_pb.UpdateMemoryBackendRequest(id=first.id, backend=first, update_mask=FieldMask(paths=[path]))
            )
    await alice.DeleteMemoryBackend(backend_pb.DeleteMemoryBackendRequest(id=second.id))
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await alice.GetMemoryBackend(backend_pb.GetMemoryBackendRequest(id=second.id))


async def test_an_update_needs_only_what_its_mask_names_and_looks_at_nothing_else(world: World) -> None:
    backends = backends_stub(world.harness)
    created = await _create(backends, backend_message(world.url, "lake"))

    async def update(paths: list[str], **fields: Any) -> backend_pb.MemoryBackend:
        sent = backend_pb.MemoryBackend(id=created.id, **fields)
        request = backend_pb.UpdateMemoryBackendRequest(id=sent.id, backend=sent, update_mask=FieldMask(paths=paths))
        changed: backend_pb.MemoryBackend = (await backends.UpdateMemoryBackend(request)).backend
        return changed

    # Neither the name nor the rest of the place is there, and what is there besides breaks every rule.
    part = backend_pb.DatabricksBackendConfig(endpoint="elsewhere", catalog="no catalog!", embedding_dimension=-1)
    changed = await update(["databricks.endpoint"], databricks=part, name="x" * 500, disabled_kinds=[0, 0, 99])
    expected = backend_pb.MemoryBackend()
    expected.CopyFrom(created)
    expected.databricks.endpoint = "elsewhere"
    expected.update_time.CopyFrom(changed.update_time)
    assert changed == expected
    assert (await update(["name"], name="renamed")).databricks == expected.databricks
    whole = backend_message(world.url, "whole")
    replaced = await update(["*"], name=whole.name, databricks=whole.databricks, disabled_kinds=[1])
    assert (replaced.name, replaced.databricks, list(replaced.disabled_kinds)) == ("whole", created.databricks, [1])
    assert (await update(["default"], default=backend_pb.DefaultBackendConfig())).HasField("default")


async def test_an_update_is_refused_when_what_comes_of_it_breaks_a_rule(world: World) -> None:
    backends = backends_stub(world.harness)
    created = await _create(backends, backend_message(world.url, "lake"))
    databricks = backend_pb.DatabricksBackendConfig
    for sent, paths, fields in (
        (backend_pb.MemoryBackend(name="lost"), ["name"], ["id"]),
        (backend_pb.MemoryBackend(id=created.id), ["name"], ["backend.name"]),
        # What the mask names and the message lacks is emptied.
        (backend_pb.MemoryBackend(id=created.id), ["databricks.endpoint"], ["backend.databricks.endpoint"]),
        (
            backend_pb.MemoryBackend(id=created.id, databricks=databricks(catalog="a.b", schema="c/d")),
            ["databricks.catalog", "databricks.schema"],
            ["backend.databricks.catalog", "backend.databricks.schema"],
        ),
        (
            backend_pb.MemoryBackend(
                id=created.id,
                databricks=databricks(
                    indexes=[backend_pb.KindIndex(kind=record_pb2.MEMORY_KIND_ENTITY, index="not one")]
                ),
            ),
            ["databricks.indexes"],
            ["backend.databricks.indexes[0].index"],
        ),
        (backend_pb.MemoryBackend(id=created.id, name="x"), ["*"], ["backend.config"]),
        (backend_pb.MemoryBackend(id=created.id, name="x"), [], ["update_mask"]),
        (backend_pb.MemoryBackend(id=created.id, name="x"), ["*", "name"], ["update_mask.paths[0]"]),
        (backend_pb.MemoryBackend(id=created.id, name="x"), ["databricks.indexes.kind"], ["update_mask.paths[0]"]),
    ):
        request = backend_pb.UpdateMemoryBackendRequest(id=sent.id, backend=sent, update_mask=FieldMask(paths=paths))
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await backends.UpdateMemoryBackend(request)
        assert refusal.fields == fields
    # A part of a place makes no place.
    plain = await _create(backends, backend_pb.MemoryBackend(name="plain", default=backend_pb.DefaultBackendConfig()))
    plain.databricks.endpoint = "somewhere"
    request = backend_pb.UpdateMemoryBackendRequest(
        id=plain.id, backend=plain, update_mask=FieldMask(paths=["databricks.endpoint"])
    )
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await backends.UpdateMemoryBackend(request)
    assert set(refusal.fields) == {f"backend.databricks.{name}" for name in ("workspace_url", "catalog", "schema")}
    found = await backends.GetMemoryBackend(backend_pb.GetMemoryBackendRequest(id=created.id))
    assert found.backend == created


async def test_the_active_backend_is_not_removed_without_a_successor(world_on: World) -> None:
    make_indexes(world_on.vectors)
    (backend_id,) = await use_workspace(world_on.harness, world_on.url, ALICE)
    backends = backends_stub(world_on.harness)
    other = await _create(backends, backend_message(world_on.url, "other"))
    with refused(CODE.FAILED_PRECONDITION, "RESOURCE_IN_USE"):
        await backends.DeleteMemoryBackend(backend_pb.DeleteMemoryBackendRequest(id=backend_id))
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await backends.DeleteMemoryBackend(backend_pb.DeleteMemoryBackendRequest(id=backend_id, successor_id="no-such"))
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await backends.DeleteMemoryBackend(
            backend_pb.DeleteMemoryBackendRequest(id=backend_id, successor_id=backend_id)
        )
    await backends.DeleteMemoryBackend(backend_pb.DeleteMemoryBackendRequest(id=backend_id, successor_id=other.id))
    assert (await backends.GetMemoryBackend(backend_pb.GetMemoryBackendRequest(id=other.id))).backend.active
    await backends.DeleteMemoryBackend(backend_pb.DeleteMemoryBackendRequest(id=other.id, successor_id="default"))
    memories = stub(world_on.harness.channel())
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("text", "r")]))
    assert world_on.vectors.rows(index_name()) == []


async def test_a_backend_with_every_kind_disabled_is_passed_over(world: World) -> None:
    make_indexes(world.vectors)
    (backend_id,) = await use_workspace(world.harness, world.url, ALICE)
    backends, memories = backends_stub(world.harness), stub(world.harness.channel())
    backend = (await backends.GetMemoryBackend(backend_pb.GetMemoryBackendRequest(id=backend_id))).backend
    mask = FieldMask(paths=["disabled_kinds"])
    backend.disabled_kinds.extend([1])
    await backends.UpdateMemoryBackend(
        backend_pb.UpdateMemoryBackendRequest(id=backend.id, backend=backend, update_mask=mask)
    )
    with refused(CODE.FAILED_PRECONDITION, "INVALID_FIELD") as refusal:
        await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("text", "r")]))
    assert "UpdateMemoryBackend" in refusal.message
    backend.disabled_kinds.extend([2, 3, 4, 5])
    await backends.UpdateMemoryBackend(
        backend_pb.UpdateMemoryBackendRequest(id=backend.id, backend=backend, update_mask=mask)
    )
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("text", "r")]))
    assert (await memories.CountRecords(pb.CountRecordsRequest(namespace=place()))).count == 1
    assert world.vectors.rows(index_name()) == []
    verified = await backends.VerifyMemoryBackend(backend_pb.VerifyMemoryBackendRequest(id=backend_id))
    assert verified.ok
    assert "disabled" in verified.checks[0].finding


async def _provision(world: World, backend_id: str) -> list[backend_pb.ProvisionMemoryBackendResponse]:
    backends = backends_stub(world.harness)
    return [
        step async for step in backends.ProvisionMemoryBackend(backend_pb.ProvisionMemoryBackendRequest(id=backend_id))
    ]


async def test_provision_makes_what_is_missing_tells_its_progress_and_can_be_repeated(world: World) -> None:
    world.vectors.behaviour.endpoint_polls = 2
    world.vectors.behaviour.index_polls = 2
    backends = backends_stub(world.harness)
    backend = await _create(backends, backend_message(world.url))
    verified = await backends.VerifyMemoryBackend(backend_pb.VerifyMemoryBackendRequest(id=backend.id))
    assert not verified.ok
    assert all("Provision" in check.remedy for check in verified.checks)
    steps = await _provision(world, backend.id)
    assert (steps[-1].done, steps[-1].total) == (6, 6)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert all((step.rate > 0) == (step.done > 0) for step in steps)
    assert any("waiting for endpoint" in step.step for step in steps)
    assert any("waiting for index" in step.step for step in steps)
    assert world.vectors.index_names() == sorted(index_name(kind) for kind in KINDS)
    verified = await backends.VerifyMemoryBackend(backend_pb.VerifyMemoryBackendRequest(id=backend.id))
    assert verified.ok, verified
    world.vectors.clear_log()
    await _provision(world, backend.id)
    assert not world.vectors.requests(method="DELETE")
    assert len(world.vectors.index_names()) == 5


async def test_provision_that_cannot_finish_removes_what_it_made_and_nothing_else(world: World) -> None:
    world.vectors.add_endpoint(ENDPOINT)
    world.vectors.add_index(index_name("unified"), ENDPOINT, DatabricksIndexSchemas.get_schema("unified"), DIMENSION)
    world.vectors.behaviour.max_indexes = 3
    backend = await _create(backends_stub(world.harness), backend_message(world.url))
    with refused(CODE.RESOURCE_EXHAUSTED, "UPSTREAM_QUOTA_EXHAUSTED"):
        await _provision(world, backend.id)
    assert world.vectors.index_names() == [index_name("unified")]
    world.vectors.behaviour.max_indexes = 50
    await _provision(world, backend.id)
    assert len(world.vectors.index_names()) == 5


async def test_provision_that_takes_too_long_keeps_what_it_made_and_goes_on(world: World) -> None:
    world.vectors.behaviour.endpoint_polls = 100_000
    backend = await _create(backends_stub(world.harness), backend_message(world.url))
    with refused(CODE.UNAVAILABLE, "STORE_FAILED") as refusal:
        await _provision(world, backend.id)
    assert "call again" in refusal.message
    assert not world.vectors.requests(method="DELETE")
    world.vectors.set_endpoint_state(ENDPOINT, "ONLINE")
    # It stays known as the backend's own, which the backend may remove.
    remove = index_pb.DeleteEndpointRequest(backend_id=backend.id, confirm_name=ENDPOINT)
    await indexes_stub(world.harness).DeleteEndpoint(remove)
    world.vectors.add_endpoint(ENDPOINT)
    assert (await _provision(world, backend.id))[-1].done == 6


async def test_provision_waits_for_a_name_that_is_still_being_removed(world: World) -> None:
    make_indexes(world.vectors)
    world.vectors.behaviour.name_reserved_for = 3
    (backend_id,) = await use_workspace(world.harness, world.url, ALICE)
    indexes = indexes_stub(world.harness)
    name = index_name("entity")
    with refused(CODE.FAILED_PRECONDITION, "CONFIRMATION_MISMATCH"):
        await indexes.DeleteIndex(index_pb.DeleteIndexRequest(index=name, confirm_name="entity"))
    await indexes.DeleteIndex(index_pb.DeleteIndexRequest(index=name, confirm_name=name))
    described = await indexes.DescribeIndex(index_pb.DescribeIndexRequest(index=name))
    assert described.index.state == index_pb.RESOURCE_STATE_NOT_FOUND
    steps = await _provision(world, backend_id)
    assert any("free again" in step.step for step in steps)
    described = await indexes.DescribeIndex(index_pb.DescribeIndexRequest(index=name))
    assert described.index.state == index_pb.RESOURCE_STATE_READY


async def test_verify_names_what_is_wrong_and_how_to_mend_it(world: World) -> None:
    make_indexes(world.vectors)
    (backend_id,) = await use_workspace(world.harness, world.url, ALICE)
    backends = backends_stub(world.harness)
    world.vectors.restrict(index_name("entity"), readers=["somebody"])
    world.vectors.set_index_state(index_name("unified"), "OFFLINE_FAILED", "broken")
    world.vectors.fail(ApiFault(path="delete-data", status=403))
    verified = await backends.VerifyMemoryBackend(backend_pb.VerifyMemoryBackendRequest(id=backend_id))
    checks = {check.subject: check for check in verified.checks}
    assert not verified.ok
    assert checks[f"endpoint {ENDPOINT}"].ok
    assert "broken" in checks[f"index {index_name('unified')}"].finding
    assert "SELECT" in checks[f"index {index_name('entity')}"].remedy
    assert sum(not check.ok for check in verified.checks) == 3
    assert all(check.remedy for check in verified.checks if not check.ok)
    assert all(world.vectors.rows(index_name(kind)) == [] for kind in KINDS)


async def test_an_index_of_another_dimension_is_told_before_it_is_used(world: World) -> None:
    make_indexes(world.vectors)
    backends = backends_stub(world.harness)
    backend = await _create(backends, backend_message(world.url, embedding_dimension=DIMENSION + 1))
    verified = await backends.VerifyMemoryBackend(backend_pb.VerifyMemoryBackendRequest(id=backend.id))
    assert not verified.ok
    assert "components" in verified.checks[1].finding


async def test_indexes_and_endpoints_are_made_and_removed_with_their_names_repeated(world: World) -> None:
    backends, indexes = backends_stub(world.harness), indexes_stub(world.harness)
    backend = await _create(backends, backend_message(world.url, indexes=[]))
    endpoint = (await indexes.GetEndpoint(index_pb.GetEndpointRequest(backend_id=backend.id))).endpoint
    assert endpoint.state == index_pb.RESOURCE_STATE_NOT_FOUND
    for _ in range(2):
        made = await indexes.CreateEndpoint(
            index_pb.CreateEndpointRequest(backend_id=backend.id, type=index_pb.ENDPOINT_TYPE_STORAGE_OPTIMIZED)
        )
        assert made.endpoint.name == ENDPOINT
        assert made.endpoint.type == index_pb.ENDPOINT_TYPE_STORAGE_OPTIMIZED
    listed = await indexes.ListEndpoints(index_pb.ListEndpointsRequest(backend_id=backend.id))
    assert [one.name for one in listed.endpoints] == [ENDPOINT]
    request = index_pb.CreateIndexRequest(
        index=index_name("entity"), backend_id=backend.id, kind=record_pb2.MEMORY_KIND_ENTITY
    )
    for _ in range(2):
        assert (await indexes.CreateIndex(request)).index.kind == 4
    request.index = index_name("entity2")
    with refused(CODE.FAILED_PRECONDITION, "RESOURCE_IN_USE"):
        await indexes.CreateIndex(request)
    request.index = "other.memories.entity"
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await indexes.CreateIndex(request)
    shown = (await indexes.ListIndexes(index_pb.ListIndexesRequest(backend_id=backend.id))).indexes
    assert [(info.index, info.endpoint, info.embedding_dimension) for info in shown] == [
        (index_name("entity"), ENDPOINT, DIMENSION)
    ]
    drop = index_pb.DeleteEndpointRequest(backend_id=backend.id, confirm_name=ENDPOINT)
    with refused(CODE.FAILED_PRECONDITION, "INDEX_NOT_READY"):
        await indexes.DeleteEndpoint(drop)
    name = index_name("entity")
    await indexes.DeleteIndex(index_pb.DeleteIndexRequest(index=name, confirm_name=name))
    with refused(CODE.FAILED_PRECONDITION, "CONFIRMATION_MISMATCH"):
        await indexes.DeleteEndpoint(index_pb.DeleteEndpointRequest(backend_id=backend.id, confirm_name="x"))
    await indexes.DeleteEndpoint(drop)
    endpoint = (await indexes.GetEndpoint(index_pb.GetEndpointRequest(backend_id=backend.id))).endpoint
    assert endpoint.state == index_pb.RESOURCE_STATE_NOT_FOUND
    world.vectors.add_endpoint(ENDPOINT)
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await indexes.DeleteEndpoint(drop)


async def test_emptying_never_drops_an_index_that_the_group_may_not_make_again(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    memories, indexes = stub(world.harness.channel()), indexes_stub(world.harness)
    records = [unified("text", f"r{n}") for n in range(20)]
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))
    request = index_pb.EmptyIndexRequest(index=index_name(), confirm_name=index_name())
    world.vectors.clear_log()
    steps = [step async for step in indexes.EmptyIndex(request)]
    assert (steps[-1].finished, steps[-1].done) == (True, 20)
    assert {e.path.rpartition("/")[2] for e in world.vectors.log} <= {"query", "query-next-page", "delete-data"}
    assert world.vectors.rows(index_name()) == []


async def test_emptying_can_be_cancelled_and_called_again(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    memories, indexes = stub(world.harness.channel()), indexes_stub(world.harness)
    await memories.SaveRecords(
        pb.SaveRecordsRequest(namespace=place(), records=[unified("t", f"r{n}") for n in range(20)])
    )
    world.vectors.fail(ApiFault(path="delete-data", hang=True))
    request = index_pb.EmptyIndexRequest(index=index_name(), confirm_name=index_name())
    call = indexes.EmptyIndex(request)
    await world.vectors.wait_for_requests(1, path="delete-data")
    call.cancel()
    world.vectors.release()
    steps = [step async for step in indexes.EmptyIndex(request)]
    assert steps[-1].finished
    assert world.vectors.rows(index_name()) == []


async def test_configurations_that_contradict_themselves_name_the_field(world: World) -> None:
    backends = backends_stub(world.harness)
    first = backend_pb.KindIndex(kind=record_pb2.MEMORY_KIND_UNIFIED, index="a")
    twice = [first, backend_pb.KindIndex(kind=record_pb2.MEMORY_KIND_UNIFIED, index="b")]
    same = [first, backend_pb.KindIndex(kind=record_pb2.MEMORY_KIND_ENTITY, index="a")]
    for indexes in (twice, same):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await _create(backends, backend_message(world.url, indexes=indexes))
        assert "backend.databricks.indexes" in refusal.message


@pytest.mark.parametrize("written", ["{}/", "{}/?o=123", "{}?o=1", "{}/#setting/account"])
async def test_the_address_of_a_workspace_is_taken_as_browsers_copy_it(world: World, written: str) -> None:
    created = await _create(backends_stub(world.harness), backend_message(written.format(world.url)))
    assert created.databricks.workspace_url == world.url


@pytest.mark.parametrize("address", ["http://a:b@127.0.0.1", "https://example.com/ui", "ftp://example.com", "https://"])
async def test_what_is_no_address_of_a_workspace_is_refused_by_its_field(world: World, address: str) -> None:
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await _create(backends_stub(world.harness), backend_message(address))
    assert refusal.fields == ["backend.databricks.workspace_url"]


async def test_a_successor_that_does_not_exist_is_refused_for_every_backend(world: World) -> None:
    backends = backends_stub(world.harness)
    created = await _create(backends, backend_message(world.url))
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await backends.DeleteMemoryBackend(
            backend_pb.DeleteMemoryBackendRequest(id=created.id, successor_id="nonsense")
        )


async def test_a_group_without_a_credential_for_the_workspace_is_told_so(
    tmp_path: Path, vectors: VectorSearchEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_indexes(vectors)
    # Looking for a sign-in of the operator's takes its time.
    monkeypatch.setenv("COXSWAIN_AUTH_SHARED_CREDENTIAL_GROUPS", "another")
    async with serve_memory(tmp_path) as (harness, _):
        (backend_id,) = await use_workspace(harness, vectors.url, ALICE)
        memories = stub(harness.channel())
        with refused(CODE.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED"):
            await memories.CountRecords(pb.CountRecordsRequest(namespace=place()))
        verified = await backends_stub(harness).VerifyMemoryBackend(
            backend_pb.VerifyMemoryBackendRequest(id=backend_id)
        )
        assert not verified.ok
    assert vectors.log == []


async def test_a_sign_in_that_does_not_end_is_waited_for_once_and_is_no_refusal(
    tmp_path: Path, vectors: VectorSearchEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "databricks"
    tool.parent.mkdir()
    # The SDK takes a small file for a tool of an older version.
    tool.write_text(f"#!/bin/sh\nexec sleep 60\n{'#' * 2**20}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATABRICKS_HOST", vectors.url)
    monkeypatch.setenv("COXSWAIN_AUTH_SDK_TIMEOUT_SECONDS", "2")
    started: list[SdkDefaultLink] = []
    run = SdkDefaultLink._run

    async def counted(link: SdkDefaultLink) -> Any:
        started.append(link)
        return await run(link)

    monkeypatch.setattr(SdkDefaultLink, "_run", counted)
    async with serve_memory(tmp_path) as (harness, _):
        (backend_id,) = await use_workspace(harness, vectors.url, ALICE)
        for _ in range(2):
            request = backend_pb.VerifyMemoryBackendRequest(id=backend_id)
            (check,) = (await backends_stub(harness).VerifyMemoryBackend(request)).checks
            assert (check.ok, check.finding) == (False, "cannot be found now")
            assert "databricks-sdk did not find credentials within 2 s; call VerifyMemoryBackend" in check.remedy
        explain = credential_pb2.ExplainCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_VECTOR_SEARCH)
        auth = auth_service_pb2_grpc.AuthServiceStub(harness.channel())
        links = {link.link: link.outcome for link in (await auth.ExplainCredential(explain)).links}
        assert links["sdk_default"] == credential_pb2.LINK_OUTCOME_UNAVAILABLE
    assert len(started) == 1


async def test_only_admins_change_backends(world: World) -> None:
    editor = backends_stub(world.harness, "dev:erin:sales=editor")
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await _create(editor, backend_message(world.url))
    assert (await editor.ListMemoryBackends(backend_pb.ListMemoryBackendsRequest())).backends == []


async def test_a_backend_keeps_the_endpoint_it_made_when_other_things_of_it_change(world_on: World) -> None:
    backends, indexes = backends_stub(world_on.harness), indexes_stub(world_on.harness)
    backend = await _create(backends, backend_message(world_on.url, indexes=[]))
    await indexes.CreateEndpoint(
        index_pb.CreateEndpointRequest(backend_id=backend.id, type=index_pb.ENDPOINT_TYPE_STANDARD)
    )
    backend.name = "renamed"
    await backends.UpdateMemoryBackend(
        backend_pb.UpdateMemoryBackendRequest(id=backend.id, backend=backend, update_mask=FieldMask(paths=["name"]))
    )
    await indexes.DeleteEndpoint(index_pb.DeleteEndpointRequest(backend_id=backend.id, confirm_name=ENDPOINT))
    # One that somebody else made since is not this backend's.
    backend.databricks.endpoint = "elsewhere"
    world_on.vectors.add_endpoint("elsewhere")
    await backends.UpdateMemoryBackend(
        backend_pb.UpdateMemoryBackendRequest(
            id=backend.id, backend=backend, update_mask=FieldMask(paths=["databricks.endpoint"])
        )
    )
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await indexes.DeleteEndpoint(index_pb.DeleteEndpointRequest(backend_id=backend.id, confirm_name="elsewhere"))


async def test_changes_of_one_backend_at_the_same_moment_are_all_kept(world_on: World) -> None:
    world_on.vectors.add_endpoint(ENDPOINT)
    backends, indexes = backends_stub(world_on.harness), indexes_stub(world_on.harness)
    backend = await _create(backends, backend_message(world_on.url, indexes=[]))
    backend.name = "renamed"
    rename = backend_pb.UpdateMemoryBackendRequest(
        id=backend.id, backend=backend, update_mask=FieldMask(paths=["name"])
    )
    await asyncio.gather(
        *(
            indexes.CreateIndex(
                index_pb.CreateIndexRequest(
                    index=index_name(name),
                    backend_id=backend.id,
                    kind=record_pb2.MemoryKind.Value(f"MEMORY_KIND_{kind}"),
                )
            )
            for name, kind in KINDS.items()
        ),
        backends.UpdateMemoryBackend(rename),
    )
    kept = (await backends.GetMemoryBackend(backend_pb.GetMemoryBackendRequest(id=backend.id))).backend
    assert kept.name == "renamed"
    assert [entry.index for entry in kept.databricks.indexes] == list(KINDS)


async def test_activations_at_the_same_moment_leave_one_active(world_on: World) -> None:
    make_indexes(world_on.vectors)
    backends = backends_stub(world_on.harness)
    ids = [(await _create(backends, backend_message(world_on.url, f"b{number}"))).id for number in range(4)]
    await asyncio.gather(
        *(backends.ActivateMemoryBackend(backend_pb.ActivateMemoryBackendRequest(id=backend_id)) for backend_id in ids)
    )
    listed = (await backends.ListMemoryBackends(backend_pb.ListMemoryBackendsRequest())).backends
    assert sum(backend.active for backend in listed) == 1


async def test_the_embedding_model_of_an_index_with_records_is_not_changed(world_on: World) -> None:
    make_indexes(world_on.vectors)
    (backend_id,) = await use_workspace(world_on.harness, world_on.url, ALICE)
    backends = backends_stub(world_on.harness)
    backend = (await backends.GetMemoryBackend(backend_pb.GetMemoryBackendRequest(id=backend_id))).backend

    async def embed_with(model: str) -> None:
        backend.databricks.embedding_model = model
        mask = FieldMask(paths=["databricks.embedding_model"])
        await backends.UpdateMemoryBackend(
            backend_pb.UpdateMemoryBackendRequest(id=backend.id, backend=backend, update_mask=mask)
        )

    await embed_with("test/other")
    await embed_with("test/embed")
    await stub(world_on.harness.channel()).SaveRecords(
        pb.SaveRecordsRequest(namespace=place(), records=[unified("text", "r")])
    )
    with refused(CODE.FAILED_PRECONDITION, "EMBEDDING_MISMATCH") as refusal:
        await embed_with("test/other")
    assert "export" in refusal.message
    with refused(CODE.FAILED_PRECONDITION, "EMBEDDING_MISMATCH"):
        await _create(backends, backend_message(world_on.url, "second", embedding_model="test/other"))
    # Where no index is the same, another model is nobody's harm, and neither is another group's.
    await _create(backends, backend_message(world_on.url, "third", embedding_model="test/other", schema="elsewhere"))
    bob = backends_stub(world_on.harness, BOB)
    await _create(bob, backend_message(world_on.url, embedding_model="test/other"))


async def test_provision_that_fails_leaves_what_others_made_meanwhile(world: World) -> None:
    world.vectors.add_endpoint(ENDPOINT)
    backend = await _create(backends_stub(world.harness), backend_message(world.url))
    world.vectors.behaviour.max_indexes = 3
    steps = backends_stub(world.harness).ProvisionMemoryBackend(backend_pb.ProvisionMemoryBackendRequest(id=backend.id))
    # Somebody else makes the first index between this call's look and its own attempt.
    world.vectors.fail(
        ApiFault(path="/indexes", method="POST", status=409, error_code="RESOURCE_ALREADY_EXISTS", after_effect=True)
    )
    with refused(CODE.RESOURCE_EXHAUSTED, "UPSTREAM_QUOTA_EXHAUSTED"):
        async for _ in steps:
            pass
    first = next(iter(KINDS))
    assert world.vectors.index_names() == [index_name(first)]


async def test_provision_can_be_cancelled_in_the_middle_and_called_again(world: World) -> None:
    world.vectors.behaviour.index_polls = 3
    backends = backends_stub(world.harness)
    backend = await _create(backends, backend_message(world.url))
    call = backends.ProvisionMemoryBackend(backend_pb.ProvisionMemoryBackendRequest(id=backend.id))
    async for step in call:
        if step.done == 3:
            call.cancel()
            break
    made = world.vectors.index_names()
    assert len(made) >= 2
    steps = await _provision(world, backend.id)
    assert (steps[-1].done, steps[-1].total) == (6, 6)
    assert len(world.vectors.index_names()) == 5
    assert not world.vectors.requests(method="DELETE")
    # The endpoint that the first call made is known to be the backend's own.
    indexes = indexes_stub(world.harness)
    for kind in KINDS:
        name = index_name(kind)
        await indexes.DeleteIndex(index_pb.DeleteIndexRequest(index=name, confirm_name=name))
    await indexes.DeleteEndpoint(index_pb.DeleteEndpointRequest(backend_id=backend.id, confirm_name=ENDPOINT))


async def test_provision_names_what_it_could_not_remove_again(world: World) -> None:
    world.vectors.add_endpoint(ENDPOINT)
    world.vectors.behaviour.max_indexes = 2
    world.vectors.fail(ApiFault(path=f"indexes/{index_name()}", method="DELETE", status=403))
    backend = await _create(backends_stub(world.harness), backend_message(world.url))
    with refused(CODE.RESOURCE_EXHAUSTED, "UPSTREAM_QUOTA_EXHAUSTED") as refusal:
        await _provision(world, backend.id)
    assert f"could not remove index {index_name()}" in refusal.message
    assert world.vectors.index_names() == [index_name()]


async def test_emptying_tells_how_far_it_is_of_how_much_and_how_fast(
    tmp_path: Path, vectors: VectorSearchEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", vectors.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-operator")
    make_indexes(vectors)
    settings = MemorySettings(databricks_delete_keys=4, databricks_visibility_seconds=0.01)
    async with serve_memory(tmp_path, settings=settings) as (harness, _):
        await use_workspace(harness, vectors.url, ALICE)
        memories, indexes = stub(harness.channel()), indexes_stub(harness)
        for crew in ("a", "b"):
            records = [unified("t", f"r{n}") for n in range(10)]
            await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(crew), records=records))
        request = index_pb.EmptyIndexRequest(index=index_name(), confirm_name=index_name(), memory_id="a")
        steps = [step async for step in indexes.EmptyIndex(request)]
        assert [(step.done, step.total, step.finished) for step in steps] == [
            (4, 10, False),
            (8, 10, False),
            (10, 10, False),
            (10, 10, True),
        ]
        assert all(step.rate > 0 for step in steps)
        assert (await memories.CountRecords(pb.CountRecordsRequest(namespace=place("b")))).count == 10


async def test_a_thousand_records_that_were_not_written_are_told_in_an_answer_that_arrives(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    failure = '{"status": "FAILURE", "result": {"success_row_count": 0}}'
    world.vectors.fail(ApiFault(path="upsert-data", status=200, body=failure, times=None))
    records = [unified("t", f"{n:04}-{'é' * 100}", embedding=_vector("t")) for n in range(1000)]
    with refused(CODE.ABORTED, "PARTIAL_FAILURE") as refusal:
        await stub(world.harness.channel()).SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))
    assert refusal.metadata["failed_count"] == "1000"
    named = json.loads(refusal.metadata["failed_ids"])
    assert named == [record.id for record in records[: len(named)]]
    assert named


async def test_conditions_that_the_index_cannot_decide_are_decided_and_say_when_they_could_not_look_at_all(
    world: World,
) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    memories, indexes = stub(world.harness.channel()), indexes_stub(world.harness)
    contents = ['it\'s 100% "quoted"', "back\\slash_under", "ünïcode ' OR 1=1 --", "plain"]
    records = [unified(text, f"r{n}", embedding=_vector(text)) for n, text in enumerate(contents)]
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))
    for n, text in enumerate(contents):
        for operator in (record_pb2.COMPARISON_OPERATOR_EQUAL, record_pb2.COMPARISON_OPERATOR_STARTS_WITH):
            condition = record_pb2.Condition(
                column="content", operator=operator, values=[record_pb2.ConditionValue(text=text)]
            )
            search = index_pb.SimilaritySearchRequest(
                index=index_name(), query_vector=_vector("plain"), conditions=[condition]
            )
            found = await indexes.SimilaritySearch(search)
            assert [hit.record.id for hit in found.records] == [f"r{n}"]
            assert not found.truncated


async def test_verify_tells_why_an_index_that_is_there_cannot_be_used(world: World) -> None:
    schema = DatabricksIndexSchemas.get_schema
    vectors = world.vectors
    vectors.add_endpoint(ENDPOINT)
    vectors.add_endpoint("other")
    vectors.add_index(index_name("unified"), "other", schema("unified"), DIMENSION)
    vectors.add_index(index_name("entity"), ENDPOINT, schema("unified"), DIMENSION)
    named = {"embedding_vector_columns": [{"name": "vector", "embedding_dimension": DIMENSION}]}
    columns = schema("short_term") | {"vector": "array<float>"}
    vectors.add_index(index_name("short_term"), ENDPOINT, columns, DIMENSION, schema_json=json.dumps(columns), **named)
    kinds = {name: KINDS[name] for name in ("unified", "entity", "short_term")}
    indexes = [
        backend_pb.KindIndex(kind=record_pb2.MemoryKind.Value(f"MEMORY_KIND_{kind}"), index=name)
        for name, kind in kinds.items()
    ]
    backends = backends_stub(world.harness)
    backend = await _create(backends, backend_message(world.url, indexes=indexes))
    verified = await backends.VerifyMemoryBackend(backend_pb.VerifyMemoryBackendRequest(id=backend.id))
    checks = {check.subject: check for check in verified.checks}
    assert "served by the endpoint other" in checks[f"index {index_name('unified')}"].finding
    assert "lacks the columns entity_name" in checks[f"index {index_name('entity')}"].finding
    assert "its vectors are in vector, not" in checks[f"index {index_name('short_term')}"].finding
    assert all(check.remedy for check in verified.checks if check.subject.startswith("index"))
    with refused(CODE.FAILED_PRECONDITION, "INDEX_NOT_READY"):
        await _provision(world, backend.id)
    assert vectors.index_names() == sorted(index_name(name) for name in kinds)


async def test_verify_names_the_scope_a_users_token_lacks(world: World) -> None:
    make_indexes(world.vectors)
    world.vectors.tokens = {"dapi-operator": Caller("app", frozenset({"vectorsearch.vector-search-indexes"}))}
    (backend_id,) = await use_workspace(world.harness, world.url, ALICE)
    verified = await backends_stub(world.harness).VerifyMemoryBackend(
        backend_pb.VerifyMemoryBackendRequest(id=backend_id)
    )
    faulty = [check for check in verified.checks if not check.ok]
    assert [check.subject for check in faulty] == [f"endpoint {ENDPOINT}"]
    assert "vector-search" in faulty[0].remedy
    # Indexes work all the same.
    memories = stub(world.harness.channel())
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("text", "r")]))
    assert (await memories.CountRecords(pb.CountRecordsRequest(namespace=place()))).count == 1


async def test_an_index_with_rows_of_a_group_whose_backend_is_gone_is_neither_dropped_nor_made_anew(
    tmp_path: Path, vectors: VectorSearchEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", vectors.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-operator")
    make_indexes(vectors)
    settings = MemorySettings(databricks_recreate_rows=3, databricks_visibility_seconds=0.01)
    async with serve_memory(tmp_path, settings=settings) as (harness, _):
        _, theirs = await use_workspace(harness, vectors.url, ALICE, BOB)
        for bearer in (ALICE, BOB):
            records = [unified("text", f"r{n}") for n in range(5)]
            await stub(harness.channel(bearer)).SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))
        await backends_stub(harness, BOB).DeleteMemoryBackend(
            backend_pb.DeleteMemoryBackendRequest(id=theirs, successor_id="default")
        )
        indexes, name = indexes_stub(harness), index_name()
        assert not (await indexes.DescribeIndex(index_pb.DescribeIndexRequest(index=name))).index.shared
        with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await indexes.DeleteIndex(index_pb.DeleteIndexRequest(index=name, confirm_name=name))
        request = index_pb.EmptyIndexRequest(index=name, confirm_name=name)
        steps = [step async for step in indexes.EmptyIndex(request)]
        assert (steps[-1].finished, steps[-1].done) == (True, 5)
        assert {row["group_id"] for row in vectors.rows(name)} == {"legal"}
        assert len(vectors.rows(name)) == 5


async def test_a_backend_is_named_by_its_name_as_well_as_by_its_id(world_on: World) -> None:
    make_indexes(world_on.vectors)
    backends, indexes = backends_stub(world_on.harness), indexes_stub(world_on.harness)
    lake = await _create(backends, backend_message(world_on.url, "lake"))
    await _create(backends, backend_message(world_on.url, "default"))
    assert (await backends.GetMemoryBackend(backend_pb.GetMemoryBackendRequest(name="lake"))).backend == lake
    assert (await backends.VerifyMemoryBackend(backend_pb.VerifyMemoryBackendRequest(name="lake"))).ok
    request = backend_pb.ActivateMemoryBackendRequest(name="lake")
    assert (await backends.ActivateMemoryBackend(request)).backend.active
    changed = await backends.UpdateMemoryBackend(
        backend_pb.UpdateMemoryBackendRequest(
            name="lake", backend=backend_pb.MemoryBackend(name="sea"), update_mask=FieldMask(paths=["name"])
        )
    )
    assert (changed.backend.id, changed.backend.name, changed.backend.active) == (lake.id, "sea", True)
    endpoint = await indexes.GetEndpoint(index_pb.GetEndpointRequest(backend_name="sea"))
    assert endpoint.endpoint.name == ENDPOINT
    assert len((await indexes.ListIndexes(index_pb.ListIndexesRequest(backend_name="sea"))).indexes) == len(KINDS)
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await backends.GetMemoryBackend(backend_pb.GetMemoryBackendRequest(name="lake"))
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await backends.GetMemoryBackend(backend_pb.GetMemoryBackendRequest())
    # A backend may be called like the embedded default: that one is meant by the id alone.
    successor = backend_pb.DeleteMemoryBackendRequest(name="sea", successor_name="default")
    await backends.DeleteMemoryBackend(successor)
    assert (await backends.GetMemoryBackend(backend_pb.GetMemoryBackendRequest(name="default"))).backend.active
    embedded = await backends.ActivateMemoryBackend(backend_pb.ActivateMemoryBackendRequest(id="default"))
    assert not embedded.HasField("backend")


async def test_a_namespace_in_a_workspace_has_the_name_of_its_crew(world_on: World) -> None:
    make_indexes(world_on.vectors)
    await use_workspace(world_on.harness, world_on.url, ALICE)
    memories = stub(world_on.harness.channel())
    for crew_name in ("brief", "", "long brief"):
        request = pb.SaveRecordsRequest(namespace=place(), records=[unified("text", "r")], crew_name=crew_name)
        await memories.SaveRecords(request)
    [info] = (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces
    assert (info.crew_name, info.record_count) == ("long brief", 1)
