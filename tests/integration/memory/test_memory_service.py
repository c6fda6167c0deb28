"""MemoryService over gRPC, with real identities and a models service."""

import json
import math
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2, vector_index_pb2, vector_index_service_pb2_grpc
from services.common.grpc.json_values import to_struct, to_value
from services.common.paging import PAGE_BYTES
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.settings import MemorySettings
from services.memory.stores.sql.remembered_blocks import bytes_of
from tests.integration.auth.support import refused
from tests.integration.memory.support import (
    DIMENSION,
    MODEL,
    EmbeddingModels,
    place,
    serve_memory,
    stub,
    unified,
)
from tests.support.harness import BOB, Harness
from tests.support.page_tokens import token_with_key
from tests.support.text_vectors import embed_text

Served = tuple[Harness, EmbeddingModels]
CODE = grpc.StatusCode


async def _save(
    memories: Any, *records: record_pb2.Record, namespace: pb.Namespace | None = None, **fields: Any
) -> Any:
    return await memories.SaveRecords(pb.SaveRecordsRequest(namespace=namespace or place(), records=records, **fields))


async def _ids(memories: Any, text: str = "cats", **fields: Any) -> list[str]:
    response = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text=text, **fields))
    return [result.record.id for result in response.results]


async def test_a_saved_text_is_found_again_by_other_words(served: Served) -> None:
    harness, models = served
    memories = stub(harness.channel())
    await _save(
        memories,
        unified("the cat purrs on the warm sofa", "cat"),
        unified("quarterly revenue rose by nine percent", "revenue"),
    )
    response = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="a cat on a sofa", limit=1))
    (result,) = response.results
    assert result.record.id == "cat"
    assert result.record.unified.content == "the cat purrs on the warm sofa"
    assert not result.record.embedding
    assert result.score == result.similarity
    assert 0.1 < result.similarity <= 1
    assert models.texts[-1] == "a cat on a sofa"


async def test_a_search_of_more_than_fits_memory_says_that_it_was_a_scan(tmp_path: Path, database_url: str) -> None:
    settings = MemorySettings(cached_namespace_bytes=bytes_of(2, DIMENSION, as_bytes=True))
    async with serve_memory(tmp_path, database_url, settings=settings) as (harness, _):
        memories = stub(harness.channel())
        question = pb.SearchRecordsRequest(namespace=place(), text="cats", filter=pb.RecordFilter(scope_prefix="/a"))
        for number in range(3):
            response = await memories.SearchRecords(question)
            assert response.scanned_records == 0
            await _save(memories, unified(f"cat {number}", str(number), scope="/b" if number == 1 else "/a"))
        response = await memories.SearchRecords(question)
        assert sorted(result.record.id for result in response.results) == ["0", "2"]
        # The database left out what lies in another scope.
        assert response.scanned_records == 2
        assert not response.truncated
        assert await memories.CountRecords(pb.CountRecordsRequest(namespace=place())) == pb.CountRecordsResponse(
            count=3
        )
        await memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=place(), ids=["1"]))
        response = await memories.SearchRecords(question)
        assert response.scanned_records == 0
        assert sorted(result.record.id for result in response.results) == ["0", "2"]


EVERY_KIND = [
    record_pb2.Record(id="x", unified=record_pb2.UnifiedRecord(content="text", scope="a//b/", source="s")),
    record_pb2.Record(id="x", short_term=record_pb2.ShortTermRecord(content="text", interaction_sequence=-(2**63))),
    record_pb2.Record(id="x", long_term=record_pb2.LongTermRecord(content="text", task_description="d", quality=9.5)),
    record_pb2.Record(
        id="x",
        entity=record_pb2.EntityRecord(
            entity_name="Ada",
            relationships=[record_pb2.Relationship(relation="knows", target="Charles")],
        ),
    ),
    record_pb2.Record(id="x", document=record_pb2.DocumentRecord(content="text", document_summary="whole")),
]


@pytest.mark.parametrize("record", EVERY_KIND, ids=lambda record: str(record.WhichOneof("kind")))
async def test_every_kind_comes_back_as_it_was_saved(memory: Harness, record: record_pb2.Record) -> None:
    kind = record_pb2.MemoryKind.Value(f"MEMORY_KIND_{str(record.WhichOneof('kind')).upper()}")
    namespace = place("" if kind == record_pb2.MEMORY_KIND_DOCUMENT else "crew", kind)
    sent = record_pb2.Record()
    sent.CopyFrom(record)
    sent.MergeFrom(
        record_pb2.Record(
            agent_id="reader",
            llm_model="m",
            tools_used=["a", "b"],
            metadata=to_struct({"b": 1, "a": [None, {"c": 0.5}]}),
        )
    )
    memories = stub(memory.channel())
    await _save(memories, sent, namespace=namespace)
    got = (await memories.GetRecord(pb.GetRecordRequest(namespace=namespace, id="x", include_embedding=True))).record
    assert len(got.embedding) == DIMENSION
    assert got.create_time.seconds > 0
    sent.revision = 1
    if kind == record_pb2.MEMORY_KIND_UNIFIED:
        sent.unified.scope = "/a/b"
    if kind == record_pb2.MEMORY_KIND_SHORT_TERM:
        sent.short_term.ttl_hours = 168
        sent.expire_time.seconds, sent.expire_time.nanos = got.create_time.seconds + 168 * 3600, got.create_time.nanos
    if kind == record_pb2.MEMORY_KIND_LONG_TERM:
        assert len(got.long_term.task_hash) == 32
        got.long_term.task_hash = ""
    if kind == record_pb2.MEMORY_KIND_DOCUMENT:
        assert got.document.HasField("update_time")
        got.document.ClearField("update_time")
    del got.embedding[:]
    got.ClearField("create_time")
    assert got == sent


async def test_neither_group_finds_changes_or_counts_anything_of_the_other(served: Served) -> None:
    harness, _ = served
    alice, bob = stub(harness.channel()), stub(harness.channel(BOB))
    for memories, content in ((alice, "secret of sales"), (bob, "secret of legal")):
        await _save(memories, unified(content, "same-id"))
    for memories, content in ((alice, "secret of sales"), (bob, "secret of legal")):
        response = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="secret", limit=100))
        assert [result.record.unified.content for result in response.results] == [content]
        listed = await memories.ListRecords(pb.ListRecordsRequest(namespace=place()))
        assert [record.unified.content for record in listed.records] == [content]
        assert (await memories.CountRecords(pb.CountRecordsRequest(namespace=place()))).count == 1
        assert len((await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces) == 1
    assert (await bob.DeleteRecords(pb.DeleteRecordsRequest(namespace=place(), ids=["same-id"]))).deleted == 1
    assert (await bob.ClearNamespace(pb.ClearNamespaceRequest(namespace=place()))).deleted == 0
    got = await alice.GetRecord(pb.GetRecordRequest(namespace=place(), id="same-id"))
    assert got.record.unified.content == "secret of sales"
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await bob.GetRecord(pb.GetRecordRequest(namespace=place(), id="same-id"))


@pytest.mark.parametrize("column", ["group_id", "crew_id", "id", "embedding", "metadata", "no_such_column"])
async def test_a_filter_cannot_name_an_owner_or_what_is_no_column(memory: Harness, column: str) -> None:
    condition = record_pb2.Condition(column=column, values=[record_pb2.ConditionValue(text="legal")])
    chosen = pb.RecordFilter(conditions=[condition])
    memories = stub(memory.channel())
    for call in (
        memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="x", filter=chosen)),
        memories.ListRecords(pb.ListRecordsRequest(namespace=place(), filter=chosen)),
        memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=place(), filter=chosen)),
        memories.CountRecords(pb.CountRecordsRequest(namespace=place(), filter=chosen)),
    ):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await call
        assert "filter.conditions[0].column" in refusal.message


async def test_vectors_of_another_length_are_refused_with_the_mend(served: Served) -> None:
    harness, _ = served
    memories = stub(harness.channel())
    await _save(memories, unified("text", "a"))
    wide = pb.Vector(values=[1.0] * 7)
    with refused(CODE.FAILED_PRECONDITION, "EMBEDDING_MISMATCH") as refusal:
        await _save(memories, unified("text", "b", embedding=wide.values))
    assert (refusal.metadata["expected_model"], refusal.metadata["expected_dimension"]) == (MODEL, str(DIMENSION))
    assert "export" in refusal.message
    with refused(CODE.FAILED_PRECONDITION, "EMBEDDING_MISMATCH"):
        await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), vector=wide))
    with refused(CODE.FAILED_PRECONDITION, "EMBEDDING_MISMATCH"):
        await _save(memories, unified("text", "b"), embedding_model="test/wide")
    assert (await memories.CountRecords(pb.CountRecordsRequest(namespace=place()))).count == 1


async def test_the_first_write_fixes_the_model_and_texts_are_embedded_by_it(memory: Harness) -> None:
    memories = stub(memory.channel())
    await _save(memories, unified("cats", "a"), embedding_model="test/wide")
    await _save(memories, unified("dogs", "b"))
    assert await _ids(memories) == ["a", "b"]
    (info,) = (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces
    assert (info.embedding_model, info.embedding_dimension, info.record_count) == ("test/wide", 2 * DIMENSION, 2)


async def test_what_is_embedded_for_a_crew_is_labelled_with_its_name(tmp_path: Path) -> None:
    async with serve_memory(tmp_path) as (memory, models):
        memories = stub(memory.channel())
        await _save(memories, unified("cats", "a"), crew_name="brief")
        await _ids(memories, crew_name="brief")
        await _ids(memories)
        assert models.labels == [{"crew": "brief"}, {"crew": "brief"}, {}]
        # It says who asks, not what is asked for: the next page may be another's.
        await _save(memories, unified("cats and dogs", "b"))
        search = pb.SearchRecordsRequest(namespace=place(), text="cats", limit=1, crew_name="brief")
        page = await memories.SearchRecords(search)
        search.MergeFrom(pb.SearchRecordsRequest(page_token=page.next_page_token, crew_name="other"))
        assert len((await memories.SearchRecords(search)).results) == 1


async def test_vectors_alone_are_taken_for_the_default_model_only_when_they_fit_it(memory: Harness) -> None:
    memories = stub(memory.channel())
    with refused(CODE.FAILED_PRECONDITION, "EMBEDDING_MISMATCH"):
        await _save(memories, unified("text", "a", embedding=[1.0, 2.0]))
    await _save(memories, unified("cats", "a", embedding=embed_text("cats", DIMENSION)), unified("dogs", "b"))
    assert await _ids(memories, limit=1) == ["a"]


async def test_vectors_are_normalised_and_their_scores_are_cosines(memory: Harness) -> None:
    memories = stub(memory.channel())
    await _save(
        memories,
        unified("a", "a", embedding=[3e30, 4e30]),
        unified("b", "b", embedding=[-1e-30, 0]),
        embedding_model="mine",
    )
    response = await memories.SearchRecords(
        pb.SearchRecordsRequest(namespace=place(), vector=pb.Vector(values=[10, 0]), include_embeddings=True)
    )
    assert [result.record.id for result in response.results] == ["a", "b"]
    assert [round(result.similarity, 5) for result in response.results] == [0.6, -1.0]
    assert [round(value, 5) for value in response.results[0].record.embedding] == [0.6, 0.8]


@pytest.mark.parametrize("values", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
async def test_vectors_without_a_direction_name_their_field(memory: Harness, values: list[float]) -> None:
    memories = stub(memory.channel())
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await _save(memories, unified("ok", "ok"), unified("text", embedding=values))
    assert "records[1].embedding" in refusal.message
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), vector=pb.Vector(values=values)))
    assert "vector.values" in refusal.message
    assert (await memories.CountRecords(pb.CountRecordsRequest(namespace=place()))).count == 0


NUL = "a\x00b"


@pytest.mark.parametrize(
    ("record", "path"),
    [
        (unified(NUL), "records[0].unified.content"),
        (unified("text", NUL), "records[0].id"),
        (unified("text", categories=["fine", NUL]), "records[0].unified.categories"),
        (unified("text", metadata=to_struct({"a": math.nan})), "records[0].metadata.a"),
        (unified("text", metadata=to_struct({"a": {NUL: 1}})), "records[0].metadata.a"),
        (unified("text", metadata=to_struct({"a": json.loads("[" * 32 + "]" * 32)})), "records[0].metadata"),
        (unified("text", metadata=to_struct({"a": "x" * 65536})), "records[0].metadata"),
        (unified("text", metadata=to_struct({"_coxswain": {}})), "records[0].metadata"),
        (unified(""), "records[0].unified.content"),
        (unified("text", importance=2), "records[0].unified.importance"),
        (record_pb2.Record(), "records[0].kind"),
        (EVERY_KIND[1], "records[0]"),
        (unified("text", create_time=Timestamp(seconds=10**15)), "records[0].create_time"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_what_cannot_be_stored_names_its_field_and_stores_nothing(
    memory: Harness, record: record_pb2.Record, path: str
) -> None:
    memories = stub(memory.channel())
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await _save(memories, record, unified("fine", "fine"))
    assert path in refusal.message
    assert (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces == []


@pytest.mark.parametrize("blank", [" ", "\t\n", "\u200b", " \ufeff\u2060\u3000"])
async def test_texts_without_anything_to_see_are_refused(memory: Harness, blank: str) -> None:
    memories = stub(memory.channel())
    kinds: list[tuple[str, Any, str]] = [
        ("unified", record_pb2.UnifiedRecord(content=blank), "content"),
        ("short_term", record_pb2.ShortTermRecord(content=blank), "content"),
        ("long_term", record_pb2.LongTermRecord(content=blank), "content"),
        ("entity", record_pb2.EntityRecord(entity_name=blank, description="known"), "entity_name"),
        ("document", record_pb2.DocumentRecord(content=blank, title="t"), "content"),
    ]
    for kind, body, field in kinds:
        namespace = place(
            "" if kind == "document" else "crew", record_pb2.MemoryKind.Value(f"MEMORY_KIND_{kind.upper()}")
        )
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await memories.SaveRecords(
                pb.SaveRecordsRequest(namespace=namespace, records=[record_pb2.Record(**{kind: body})])
            )
        assert f"records[0].{kind}.{field}" in refusal.message
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text=blank))
    assert "text" in refusal.message
    await _save(memories, unified(blank + "x"))


async def test_namespaces_need_a_crew_and_documents_none(memory: Harness) -> None:
    memories = stub(memory.channel())
    document = record_pb2.Record(id="d", document=record_pb2.DocumentRecord(content="text"))
    for namespace, record in ((place(""), unified("text")), (place("crew", 5), document)):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await _save(memories, record, namespace=namespace)
        assert "namespace.memory_id" in refusal.message
    await _save(memories, document, namespace=place("", 5))


async def test_private_memories_are_found_by_their_owner_and_by_editors_who_ask(memory: Harness) -> None:
    admin = stub(memory.channel())
    operator = stub(memory.channel("dev:carol:sales=operator"))
    await _save(admin, unified("cats", "mine", private=True, source="alice"), unified("cats too", "all", source="bob"))
    assert await _ids(operator) == ["all"]
    assert await _ids(operator, filter=pb.RecordFilter(source="alice")) == ["all"]
    assert await _ids(admin, filter=pb.RecordFilter(source="alice")) == ["mine", "all"]
    assert await _ids(admin, filter=pb.RecordFilter(include_private=True)) == ["mine", "all"]
    everything = pb.RecordFilter(include_private=True)
    for call in (
        operator.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="cats", filter=everything)),
        operator.ListRecords(pb.ListRecordsRequest(namespace=place(), filter=everything)),
        operator.CountRecords(pb.CountRecordsRequest(namespace=place(), filter=everything)),
        operator.DeleteRecords(pb.DeleteRecordsRequest(namespace=place(), filter=everything)),
    ):
        with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await call


async def test_ranking_weighs_recency_and_importance(memory: Harness) -> None:
    memories = stub(memory.channel())
    old = Timestamp(seconds=1_000_000_000)
    await _save(
        memories,
        unified("cats", "near-old", create_time=old, importance=0.0),
        unified("dogs", "far-new-important", importance=1.0),
    )
    assert (await _ids(memories))[0] == "near-old"
    ranking = pb.Ranking(semantic_weight=0.1, recency_weight=1, importance_weight=1)
    response = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="cats", ranking=ranking))
    assert [result.record.id for result in response.results] == ["far-new-important", "near-old"]
    best, worst = response.results
    assert best.score == pytest.approx((0.1 * best.similarity + 1 + 1) / 2.1, abs=1e-3)
    assert worst.score == pytest.approx(0.1 * worst.similarity / 2.1, abs=1e-3)
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="cats", ranking=pb.Ranking()))
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await memories.SearchRecords(
            pb.SearchRecordsRequest(namespace=place(kind=record_pb2.MEMORY_KIND_ENTITY), text="cats", ranking=ranking)
        )


async def test_min_score_leaves_out_what_is_less_similar(memory: Harness) -> None:
    memories = stub(memory.channel())
    await _save(memories, unified("cats", "same"), unified("something else entirely", "other"))
    assert await _ids(memories, min_score=0.9) == ["same"]
    assert await _ids(memories, min_score=-1.0) == ["same", "other"]


async def _all_pages(memories: Any, size: int, **fields: Any) -> list[str]:
    ids: list[str] = []
    token = ""
    while True:
        page = await memories.ListRecords(
            pb.ListRecordsRequest(namespace=place(), page_size=size, page_token=token, **fields)
        )
        assert len(page.records) <= size
        ids.extend(record.id for record in page.records)
        token = page.next_page_token
        if not token:
            return ids


async def test_lists_are_newest_first_and_stable_while_others_write(served: Served) -> None:
    harness, _ = served
    memories = stub(harness.channel())
    times = [Timestamp(seconds=1_700_000_000 + place // 3) for place in range(10)]
    await _save(memories, *(unified("text", f"r{n}", create_time=time) for n, time in enumerate(times)))
    whole = await _all_pages(memories, 1000)
    assert len(whole) == 10
    order = [int(record_id[1:]) // 3 for record_id in whole]
    assert order == sorted(order, reverse=True)
    for size in (1, 3, 10):
        assert await _all_pages(memories, size) == whole
    first = await memories.ListRecords(pb.ListRecordsRequest(namespace=place(), page_size=4))
    await _save(memories, unified("text", "newer"))
    await memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=place(), ids=[whole[0], whole[3]]))
    second = await memories.ListRecords(
        pb.ListRecordsRequest(namespace=place(), page_size=100, page_token=first.next_page_token)
    )
    assert [record.id for record in first.records] + [record.id for record in second.records] == whole


async def test_a_page_token_belongs_to_its_group_namespace_and_filter(memory: Harness) -> None:
    memories, bob = stub(memory.channel()), stub(memory.channel(BOB))
    for owner in (memories, bob):
        await _save(owner, *(unified("text", f"r{n}") for n in range(3)))
    token = (await memories.ListRecords(pb.ListRecordsRequest(namespace=place(), page_size=1))).next_page_token
    for stranger, request in (
        (bob, pb.ListRecordsRequest(namespace=place(), page_token=token)),
        (memories, pb.ListRecordsRequest(namespace=place("other"), page_token=token)),
        (
            memories,
            pb.ListRecordsRequest(namespace=place(), page_token=token, filter=pb.RecordFilter(scope_prefix="/a")),
        ),
        (memories, pb.ListRecordsRequest(namespace=place(), page_token=token[:-4])),
        (memories, pb.ListRecordsRequest(namespace=place(), page_token="nonsense")),
    ):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
            await stranger.ListRecords(request)


async def test_pages_of_lists_have_1_mib_and_those_of_searches_end_where_a_message_is_full(tmp_path: Path) -> None:
    async with serve_memory(tmp_path) as (harness, _):
        memories = stub(harness.channel())
        for n in range(6):
            await _save(memories, unified("x" * 1_000_000, f"r{n}"))
        page = await memories.ListRecords(pb.ListRecordsRequest(namespace=place(), page_size=6))
        assert len(page.records) == 1
        assert page.ByteSize() <= PAGE_BYTES
        assert sorted(await _all_pages(memories, 6)) == [f"r{n}" for n in range(6)]
        found, sizes = await _all_results(memories, pb.SearchRecordsRequest(namespace=place(), text="x"))
        assert sorted(found) == [f"r{n}" for n in range(6)]
        assert sizes == [4, 2]
        assert len(await _ids(memories, limit=3)) == 3


async def _all_results(memories: Any, request: pb.SearchRecordsRequest) -> tuple[list[str], list[int]]:
    ids: list[str] = []
    sizes: list[int] = []
    while True:
        response = await memories.SearchRecords(request)
        ids += [result.record.id for result in response.results]
        sizes.append(len(response.results))
        if not response.next_page_token:
            return ids, sizes
        request.page_token = response.next_page_token


@pytest.mark.parametrize("cached", [1 << 20, bytes_of(20, DIMENSION) - 1, 0], ids=["remembered", "as-bytes", "scanned"])
async def test_pages_of_a_search_are_together_what_one_search_finds(
    tmp_path: Path, database_url: str, cached: int
) -> None:
    """Equal scores are no reason to repeat or leave out any, and later pages reckon ages as the first one did."""
    settings = MemorySettings(cached_namespace_bytes=cached)
    async with serve_memory(tmp_path, database_url, settings=settings) as (harness, _):
        memories = stub(harness.channel())
        records = [
            unified(
                f"text {n}",
                f"r{n}",
                embedding=[1.0, n % 3, *[0.0] * (DIMENSION - 2)],
                importance=0.25 * (n % 2),
                create_time=Timestamp(seconds=n // 5),
            )
            for n in range(20)
        ]
        await _save(memories, *records, embedding_model=MODEL)
        first, second = [1.0, *[0.0] * (DIMENSION - 1)], [0.0, 1.0, *[0.0] * (DIMENSION - 2)]
        ranking = pb.Ranking(semantic_weight=1, recency_weight=1, importance_weight=1, recency_half_life_days=36500)
        for question in (
            pb.SearchRecordsRequest(vector=pb.Vector(values=first)),
            pb.SearchRecordsRequest(vector=pb.Vector(values=second), min_score=0.5),
            pb.SearchRecordsRequest(vector=pb.Vector(values=first), ranking=ranking),
            pb.SearchRecordsRequest(text="text", filter=pb.RecordFilter(metadata={"none": to_value(1)})),
        ):
            question.namespace.CopyFrom(place())
            question.limit = 100
            whole = [result.record.id for result in (await memories.SearchRecords(question)).results]
            for limit in (1, 3, 7):
                question.limit = limit
                question.page_token = ""
                ids, sizes = await _all_results(memories, question)
                assert ids == whole
                assert set(sizes[:-1]) <= {limit}


async def test_a_page_token_of_a_search_belongs_to_its_group_and_question(memory: Harness) -> None:
    memories, bob = stub(memory.channel()), stub(memory.channel(bearer=BOB))
    await _save(memories, *(unified(f"text {n}", f"r{n}") for n in range(3)))
    question = pb.SearchRecordsRequest(namespace=place(), text="text", limit=1)
    token = (await memories.SearchRecords(question)).next_page_token
    keys: list[list[Any]] = [
        [],
        [1.0, "a" * 64, 10**30, 1],
        [float("nan"), "a" * 64, 0, 1],
        ["1", "a" * 64, 0, 1],
        [1.0, "x\x00", 0, 1],
        [1.0, "a" * 64, 0, -(10**30)],
    ]
    for caller, change in (
        (bob, pb.SearchRecordsRequest(page_token=token)),
        (memories, pb.SearchRecordsRequest(page_token=token, namespace=pb.Namespace(memory_id="other"))),
        (memories, pb.SearchRecordsRequest(page_token=token, text="another text")),
        (memories, pb.SearchRecordsRequest(page_token=token, min_score=0.1)),
        (memories, pb.SearchRecordsRequest(page_token=token, filter=pb.RecordFilter(scope_prefix="/a"))),
        (memories, pb.SearchRecordsRequest(page_token="W1tb" * 500)),
        *((memories, pb.SearchRecordsRequest(page_token=token_with_key(token, key))) for key in keys),
    ):
        request = pb.SearchRecordsRequest()
        request.CopyFrom(question)
        request.MergeFrom(change)
        with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
            await caller.SearchRecords(request)


async def test_a_forged_place_in_a_list_is_refused(served: Served) -> None:
    harness, _ = served
    memories = stub(harness.channel())
    await _save(memories, unified("a", "r1"), unified("b", "r2"))
    await _save(memories, unified("a", "r1"), namespace=place("second"))
    records = (await memories.ListRecords(pb.ListRecordsRequest(namespace=place(), page_size=1))).next_page_token
    namespaces = (await memories.ListNamespaces(pb.ListNamespacesRequest(page_size=1))).next_page_token
    places: list[list[Any]] = [[10**30, "a" * 64], [0, "\x00" * 64], [0, "a" * 300], [-(2**63), "a" * 64]]
    for key in places:
        with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
            await memories.ListRecords(
                pb.ListRecordsRequest(namespace=place(), page_token=token_with_key(records, key))
            )
    crews: list[list[Any]] = [["crew", 10**30], ["crew", 2**31], ["\x00", 1], [1, 1]]
    for key in crews:
        with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
            await memories.ListNamespaces(pb.ListNamespacesRequest(page_token=token_with_key(namespaces, key)))


async def test_namespaces_of_the_longest_memory_ids_can_be_paged(served: Served) -> None:
    harness, _ = served
    memories = stub(harness.channel())
    crews = ["\U0001f600" * 127 + letter for letter in "ab"]
    for crew in crews:
        await _save(memories, unified("a", "r1"), namespace=place(crew))
    first = await memories.ListNamespaces(pb.ListNamespacesRequest(page_size=1))
    second = await memories.ListNamespaces(pb.ListNamespacesRequest(page_size=1, page_token=first.next_page_token))
    assert [n.namespace.memory_id for page in (first, second) for n in page.namespaces] == crews


async def test_deleting_needs_ids_or_a_filter_and_tells_how_many_were_there(served: Served) -> None:
    harness, _ = served
    memories = stub(harness.channel())
    await _save(memories, *(unified("text", f"r{n}", scope=f"/{n % 2}", categories=[f"c{n}"]) for n in range(6)))
    for request in (
        pb.DeleteRecordsRequest(namespace=place()),
        pb.DeleteRecordsRequest(namespace=place(), filter=pb.RecordFilter()),
        pb.DeleteRecordsRequest(namespace=place(), filter=pb.RecordFilter(include_private=True)),
    ):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
            await memories.DeleteRecords(request)

    async def deleted(**fields: Any) -> int:
        return int((await memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=place(), **fields))).deleted)

    assert await deleted(ids=["r0", "r0", "never"]) == 1
    assert await deleted(ids=["r1", "r2"], filter=pb.RecordFilter(scope_prefix="/0")) == 1
    assert await deleted(filter=pb.RecordFilter(categories=["c3", "c4"])) == 2
    assert await deleted(ids=["r1", "r5"], filter=pb.RecordFilter(categories=["c5"])) == 1
    assert await _all_pages(memories, 10) == ["r1"]
    assert (await memories.ClearNamespace(pb.ClearNamespaceRequest(namespace=place()))).deleted == 1
    assert (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces == []


async def test_scopes_and_categories_are_counted(served: Served) -> None:
    harness, _ = served
    memories = stub(harness.channel())
    await _save(
        memories,
        unified("a", scope="/crew/x/agent/reader", categories=["p", "p"]),
        unified("b", scope="/crew/x/agent/editor", categories=["p", "q"]),
        unified("c", scope="/crew/x", categories=["r"]),
        unified("d", scope="/crewless"),
        unified("e", scope="/crew/x/secret", private=True, categories=["hidden"]),
    )
    roots = await memories.ListScopes(pb.ListScopesRequest(namespace=place()))
    assert [(scope.path, scope.record_count) for scope in roots.scopes] == [("/crew", 3), ("/crewless", 1)]
    below = await memories.ListScopes(pb.ListScopesRequest(namespace=place(), parent="/crew/x/"))
    assert [(scope.path, list(scope.categories)) for scope in below.scopes] == [("/crew/x/agent", ["p", "q"])]
    scope = (await memories.GetScope(pb.GetScopeRequest(namespace=place(), path="/crew/x"))).scope
    assert (scope.record_count, list(scope.child_scopes)) == (3, ["/crew/x/agent"])
    assert scope.oldest_time.seconds <= scope.newest_time.seconds
    nowhere = (await memories.GetScope(pb.GetScopeRequest(namespace=place(), path="/nowhere"))).scope
    assert (nowhere.record_count, nowhere.HasField("oldest_time")) == (0, False)
    counts = await memories.ListCategories(pb.ListCategoriesRequest(namespace=place(), scope_prefix="/crew"))
    assert dict(counts.counts) == {"p": 2, "q": 1, "r": 1}
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await memories.GetScope(pb.GetScopeRequest(namespace=place(kind=record_pb2.MEMORY_KIND_ENTITY)))


async def test_touching_sets_the_time_of_last_access_only(memory: Harness) -> None:
    memories = stub(memory.channel())
    await _save(memories, unified("text", "a"), unified("text", "b"))
    touched = await memories.TouchRecords(pb.TouchRecordsRequest(namespace=place(), ids=["a", "a", "never"]))
    assert touched.touched == 1
    a, b = [(await memories.GetRecord(pb.GetRecordRequest(namespace=place(), id=name))).record for name in "ab"]
    assert a.unified.HasField("last_accessed")
    assert not b.unified.HasField("last_accessed")
    a.unified.ClearField("last_accessed")
    a.id = "b"
    assert a == b
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await memories.TouchRecords(
            pb.TouchRecordsRequest(namespace=place(kind=record_pb2.MEMORY_KIND_ENTITY), ids=["a"])
        )


async def test_a_namespace_never_written_to_has_nothing_and_costs_no_embedding(served: Served) -> None:
    harness, models = served
    memories = stub(harness.channel())
    assert await _ids(memories) == []
    assert models.texts == []
    assert (await memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=place(), ids=["a"]))).deleted == 0
    assert (await memories.ClearNamespace(pb.ClearNamespaceRequest(namespace=place()))).deleted == 0
    assert (await memories.TouchRecords(pb.TouchRecordsRequest(namespace=place(), ids=["a"]))).touched == 0
    assert (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces == []


async def test_namespaces_are_paged_by_crew_and_kind(served: Served) -> None:
    harness, _ = served
    memories = stub(harness.channel())
    places = [place(f"crew{n}", kind) for n in range(3) for kind in (1, 2)]
    for namespace in reversed(places):
        record = unified("t") if namespace.kind == 1 else record_pb2.Record(short_term=EVERY_KIND[1].short_term)
        await _save(memories, record, namespace=namespace)
    seen: list[pb.Namespace] = []
    token = ""
    while True:
        page = await memories.ListNamespaces(pb.ListNamespacesRequest(page_size=4, page_token=token))
        seen.extend(info.namespace for info in page.namespaces)
        token = page.next_page_token
        if not token:
            break
    assert seen == places


async def test_an_unknown_embedding_model_is_told_and_stores_nothing(memory: Harness) -> None:
    memories = stub(memory.channel())
    with refused(CODE.NOT_FOUND, "NOT_FOUND") as refusal:
        await _save(memories, unified("text"), embedding_model="no/such")
    assert refusal.metadata == {"resource": "model", "id": "no/such"}
    assert (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces == []


async def test_memory_ids_belong_to_the_callers_group(memory: Harness) -> None:
    request = pb.DeriveMemoryIdRequest(agent_roles=["b", "a"], task_names=["t"], crew_name="c", model="m")
    again = pb.DeriveMemoryIdRequest(agent_roles=["a", "b"], task_names=["t"], crew_name="c", model="m")
    alice, bob = stub(memory.channel()), stub(memory.channel(BOB))
    ids = [
        (await caller.DeriveMemoryId(asked)).memory_id
        for caller, asked in ((alice, request), (alice, again), (bob, again))
    ]
    assert ids[0] == ids[1] != ids[2]


CONDITIONS: Sequence[tuple[dict[str, Any], str]] = [
    ({"column": "importance", "values": [record_pb2.ConditionValue(text="high")]}, "values[0]"),
    ({"column": "importance", "values": [record_pb2.ConditionValue(number=float("nan"))]}, "values[0]"),
    ({"column": "private", "values": [record_pb2.ConditionValue(integer=1)]}, "values[0]"),
    ({"column": "created_at", "values": [record_pb2.ConditionValue(text="2026")]}, "values[0]"),
    ({"column": "private", "operator": 3, "values": [record_pb2.ConditionValue(boolean=True)]}, "operator"),
    ({"column": "importance", "operator": 7, "values": [record_pb2.ConditionValue(text="x")]}, "operator"),
    ({"column": "categories", "operator": 1, "values": [record_pb2.ConditionValue(text="x")]}, "operator"),
    ({"column": "content", "operator": 7, "values": [record_pb2.ConditionValue(text="!?")]}, "values[0]"),
    (
        {
            "column": "content",
            "operator": 3,
            "values": [record_pb2.ConditionValue(text="a"), record_pb2.ConditionValue(text="b")],
        },
        "values",
    ),
]


@pytest.mark.parametrize(("fields", "path"), CONDITIONS, ids=lambda value: str(value)[:40])
async def test_a_condition_that_does_not_fit_its_column_names_the_field(
    memory: Harness, fields: dict[str, Any], path: str
) -> None:
    memories = stub(memory.channel())
    chosen = pb.RecordFilter(conditions=[record_pb2.Condition(**fields)])
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await memories.CountRecords(pb.CountRecordsRequest(namespace=place(), filter=chosen))
    assert f"filter.conditions[0].{path}" in refusal.message


async def test_as_many_values_as_a_database_takes_are_taken_and_more_are_refused(served: Served) -> None:
    harness, _ = served
    memories = stub(harness.channel())
    await _save(memories, unified("x", "r1", agent_id="5"), unified("y", "r2", agent_id="none"))
    values = [record_pb2.ConditionValue(text=str(n)) for n in range(1000)]
    conditions = [record_pb2.Condition(column="agent_id", values=values) for _ in range(10)]
    request = pb.CountRecordsRequest(namespace=place(), filter=pb.RecordFilter(conditions=conditions))
    assert (await memories.CountRecords(request)).count == 1
    assert await _ids(memories, filter=request.filter) == ["r1"]
    deleting = pb.DeleteRecordsRequest(namespace=place(), ids=[f"r{n}" for n in range(10_000)], filter=request.filter)
    assert (await memories.DeleteRecords(deleting)).deleted == 1
    request.filter.conditions.append(record_pb2.Condition(column="agent_id", values=values[:1]))
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await memories.CountRecords(request)
    assert "10,000 values" in refusal.message


async def test_scopes_that_do_not_fit_a_message_are_told_by_what_to_ask_instead(tmp_path: Path) -> None:
    async with serve_memory(tmp_path, max_message_bytes=200_000) as (harness, _):
        memories = stub(harness.channel())
        records = [
            unified("x", f"r{n}", scope=f"/{'a' * 250}/{n}{'b' * 240}", embedding=[1.0] * DIMENSION) for n in range(300)
        ]
        for start in range(0, 300, 100):
            await _save(memories, *records[start : start + 100], embedding_model=MODEL)
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await memories.ListScopes(pb.ListScopesRequest(namespace=place(), parent="/" + "a" * 250))
        assert "deeper" in refusal.message
        scope = f"/{'a' * 250}/7{'b' * 240}"
        assert (await memories.GetScope(pb.GetScopeRequest(namespace=place(), path=scope))).scope.record_count == 1


async def test_the_schema_is_told_as_it_is(memory: Harness) -> None:
    indexes: Any = vector_index_service_pb2_grpc.VectorIndexServiceStub(memory.channel())
    schema = await indexes.GetSchema(vector_index_pb2.GetSchemaRequest(kind=record_pb2.MEMORY_KIND_DOCUMENT))
    assert {field.name: field.type for field in schema.fields} == DatabricksIndexSchemas.get_schema("document")
    assert list(schema.search_columns) == DatabricksIndexSchemas.get_search_columns("document")
    assert {f.name: f.position for f in schema.fields if f.position >= 0} == (
        DatabricksIndexSchemas.get_column_positions("document")
    )
    assert (schema.primary_key, schema.vector_column) == ("id", "embedding")
    assert not next(field for field in schema.fields if field.name == "group_id").filterable


async def test_a_stored_crews_id_is_refused_where_a_memory_id_is_meant(memory: Harness) -> None:
    memories, crew_id = stub(memory.channel()), str(uuid.uuid4())
    indexes: Any = vector_index_service_pb2_grpc.VectorIndexServiceStub(memory.channel())
    for call in (
        memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(crew_id), records=[unified("text")])),
        memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(crew_id.upper()), text="text")),
        memories.CountRecords(pb.CountRecordsRequest(namespace=place(crew_id))),
        memories.ClearNamespace(pb.ClearNamespaceRequest(namespace=place(crew_id))),
    ):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await call
        assert refusal.fields == ["namespace.memory_id"]
        assert "use the crew's memory_id, which GetCrew returns" in refusal.message
    with refused(CODE.NOT_FOUND, "INDEX_NOT_REGISTERED"):
        await indexes.DescribeIndex(vector_index_pb2.DescribeIndexRequest(index="main.crews.unified"))


async def test_a_namespace_has_the_name_of_the_crew_that_saved_last(served: Served) -> None:
    memories = stub(served[0].channel())

    async def names() -> list[str]:
        listed = await memories.ListNamespaces(pb.ListNamespacesRequest())
        return [info.crew_name for info in listed.namespaces]

    await _save(memories, unified("text", "r"))
    assert await names() == [""]
    await _save(memories, unified("text", "r"), crew_name="brief")
    await _save(memories, unified("text", "r"))
    assert await names() == ["brief"]
    await _save(memories, unified("text", "r"), crew_name="long brief")
    assert await names() == ["long brief"]


async def test_metadata_is_found_by_its_values_whatever_their_type(served: Served) -> None:
    memories = stub(served[0].channel())
    values: dict[str, Any] = {
        "text": "2",
        "number": 2,
        "half": 0.5,
        "no": False,
        "nothing": None,
        "list": [1, {"a": []}],
    }
    await _save(memories, unified("text", "r", metadata=to_struct(values)), unified("text", "other"))
    for name, value in values.items():
        chosen = pb.RecordFilter(metadata={name: to_value(value)})
        listed = await memories.ListRecords(pb.ListRecordsRequest(namespace=place(), filter=chosen))
        assert [record.id for record in listed.records] == ["r"], name
        wrong = pb.RecordFilter(metadata={name: to_value("another")})
        assert (await memories.CountRecords(pb.CountRecordsRequest(namespace=place(), filter=wrong))).count == 0
