"""Several searches in one call, each over many namespaces: against one search of each, on every store."""

from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st

from coxswain.memory.v1 import batch_search_pb2 as batch_pb
from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from coxswain.memory.v1 import vector_index_pb2 as index_pb
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.searches import Found, SearchOutcome
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.servicers.messages.batch_searches import answer_to_proto
from services.memory.usecases.batch_answers import Answer, Fitting, Placed, in_turn
from services.memory.usecases.merged_search import Best, Part
from tests.integration.auth.support import refused
from tests.integration.memory.databricks_support import World, index_name, indexes_stub, make_indexes, use_workspace
from tests.integration.memory.support import EmbeddingModels, place, stub, unified
from tests.support.harness import ALICE, BOB, Harness

CODE = grpc.StatusCode
Served = tuple[Harness, EmbeddingModels]
ENTITY = record_pb2.MEMORY_KIND_ENTITY
TEXTS = ["storm at sea", "the lamp AB-17/3 was lit", "storm lamp", "a quiet night", "the sea was quiet", "AB-17/3"]


def _batch(*queries: dict[str, Any], **fields: Any) -> batch_pb.BatchSearchRecordsRequest:
    return ParseDict({"queries": list(queries), **fields}, batch_pb.BatchSearchRecordsRequest())


async def _save(
    memories: Any, where: pb.Namespace, *records: record_pb2.Record, model: str = "", crew: str = ""
) -> None:
    await memories.SaveRecords(
        pb.SaveRecordsRequest(namespace=where, records=records, embedding_model=model, crew_name=crew)
    )


def _entity(name: str, description: str) -> record_pb2.Record:
    return record_pb2.Record(id=name, entity=record_pb2.EntityRecord(entity_name=name, description=description))


async def _fill(memories: Any, whose: str) -> None:
    for number, text in enumerate(TEXTS):
        memory_id = f"crew-{number % 2}"
        await _save(
            memories, place(memory_id), unified(f"{text} {whose}", f"{whose}-{number}"), crew=f"Crew {number % 2}"
        )
    await _save(memories, place("crew-0", ENTITY), _entity(f"{whose} lamp", "lit in a storm"))


def _found(answer: batch_pb.SearchAnswer) -> list[tuple[str, str]]:
    return [(result.namespace.memory_id, result.result.record.id) for result in answer.results]


async def test_it_finds_what_one_search_of_each_finds(everywhere: Harness) -> None:
    memories, others = stub(everywhere.channel(ALICE)), stub(everywhere.channel(BOB))
    await _fill(memories, "sales")
    await _fill(others, "legal")
    named = [{"memory_id": "crew-0"}, {"memory_id": "crew-1"}, {"memory_id": "crew-0", "kind": "MEMORY_KIND_ENTITY"}]
    response = await memories.BatchSearchRecords(
        _batch(
            {"namespaces": named, "text": "storm lamp"},
            {"all_namespaces": {}, "text": "storm lamp"},
            {"all_namespaces": {"kinds": ["MEMORY_KIND_UNIFIED"]}, "text": "AB-17/3", "mode": "SEARCH_MODE_HYBRID"},
            {"namespaces": named[:2], "text": "AB-17/3", "mode": "SEARCH_MODE_TEXT"},
            {"namespaces": [*named, *named, {"memory_id": "nobody"}], "text": "quiet", "limit": 2, "diversity": 0.5},
        )
    )
    by_hand = []
    for where in (place("crew-0"), place("crew-1"), place("crew-0", ENTITY)):
        found = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=where, text="storm lamp"))
        by_hand += [(result.score, where.memory_id, result.record.id) for result in found.results]
    by_hand.sort(key=lambda found: -found[0])
    first, all_of_them, hybrid, words, diverse = response.answers
    scores = [result.result.score for result in first.results]
    assert scores == pytest.approx([score for score, *_ in by_hand], abs=1e-6)
    assert sorted(_found(first)) == sorted((memory_id, record_id) for _, memory_id, record_id in by_hand)
    assert sorted(_found(all_of_them)) == sorted(_found(first))
    assert not all_of_them.next_namespaces_token
    assert first.merge == all_of_them.merge == hybrid.merge == words.merge == batch_pb.SEARCH_MERGE_SCORE
    # Found by words and by vectors, the two that have the number come first.
    assert {record_id for _, record_id in _found(hybrid)[:2]} == {"sales-1", "sales-5"}
    assert {record_id for _, record_id in _found(words)[:2]} == {"sales-1", "sales-5"}
    assert len(diverse.results) == 2
    for answer in response.answers:
        assert not answer.problems
        assert not answer.cut
        assert {result.crew_name for result in answer.results} <= {"Crew 0", "Crew 1", ""}
        assert all("legal" not in str(result) for result in answer.results)
        assert {result.embedding_model for result in answer.results} == {"test/embed"}


async def test_private_records_stay_their_owners(everywhere: Harness) -> None:
    bob, olaf = (stub(everywhere.channel(bearer)) for bearer in ("dev:bob:sales=operator", "dev:olaf:sales=operator"))
    for crew in ("crew-0", "crew-1"):
        await _save(bob, place(crew), unified("secret", f"s-{crew}", private=True, source="bob"), unified("known", "k"))
    query: dict[str, Any] = {"all_namespaces": {}, "text": "secret"}
    own = {**query, "filter": {"source": "bob"}}
    mine = (await bob.BatchSearchRecords(_batch(query, own))).answers
    assert [sorted(record_id for _, record_id in _found(answer)) for answer in mine] == [
        ["k", "k"],
        ["k", "k", "s-crew-0", "s-crew-1"],
    ]
    theirs = (await olaf.BatchSearchRecords(_batch(query, own))).answers
    assert [{record_id for _, record_id in _found(answer)} for answer in theirs] == [{"k"}, {"k"}]
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await olaf.BatchSearchRecords(_batch({**query, "filter": {"include_private": True}}))


async def test_embedding_spaces_are_told_apart(served: Served) -> None:
    harness, models = served
    memories = stub(harness.channel())
    for crew, model in (("a", "test/embed"), ("b", "test/wide"), ("c", "test/embed")):
        await _save(
            memories,
            place(crew),
            *(unified(f"{crew} {text}", f"{crew}{n}") for n, text in enumerate(TEXTS)),
            model=model,
        )
    models.texts.clear()
    models.labels.clear()
    named = [{"memory_id": crew} for crew in "abc"]
    vector = {"values": [1.0] * 64}
    request = _batch(
        {"namespaces": named, "text": "storm"},
        {"namespaces": named, "text": "lamp"},
        {"namespaces": named, "text": "storm", "mode": "SEARCH_MODE_TEXT"},
        {"namespaces": named, "vector": vector},
        {"namespaces": named, "vector": vector, "embedding_model": "test/embed"},
        crew_name="brief",
    )
    both, _, words, by_vector, of_model = (await memories.BatchSearchRecords(request)).answers
    # One call for each of the models, and each text once.
    assert models.labels == [{"crew": "brief"}] * 2
    assert sorted(models.texts) == ["lamp", "lamp", "storm", "storm"]
    assert both.merge == batch_pb.SEARCH_MERGE_RANK
    spaces = [result.embedding_model for result in both.results]
    assert spaces[:6] == ["test/embed", "test/wide"] * 3
    for model in ("test/embed", "test/wide"):
        scores = [result.result.score for result in both.results if result.embedding_model == model]
        assert scores == sorted(scores, reverse=True)
    assert words.merge == batch_pb.SEARCH_MERGE_SCORE
    assert len(words.results) == 6
    assert {memory_id for memory_id, _ in _found(by_vector)} == {"b"}
    [problem] = by_vector.problems
    assert problem.reason == "EMBEDDING_MISMATCH"
    assert [space.memory_id for space in problem.namespaces] == ["a", "c"]
    assert not of_model.results
    assert sum(len(told.namespaces) for told in of_model.problems) == 3
    # A model that is gone is a problem of its namespaces; one that does not answer fails the call.
    del models.dimensions["test/wide"]
    [answer] = (await memories.BatchSearchRecords(_batch({"namespaces": named, "text": "night"}))).answers
    assert {memory_id for memory_id, _ in _found(answer)} == {"a", "c"}
    assert [space.memory_id for told in answer.problems for space in told.namespaces] == ["b"]


async def test_kinds_that_lack_what_is_asked_for_are_told(served: Served) -> None:
    memories = stub(served[0].channel())
    await _fill(memories, "sales")
    ranked = {"semantic_weight": 1, "importance_weight": 1}
    asked: list[dict[str, Any]] = [{"filter": {"scope_prefix": "/"}}, {"ranking": ranked}]
    for fields in asked:
        request = _batch({"all_namespaces": {}, "text": "storm", **fields})
        [answer] = (await memories.BatchSearchRecords(request)).answers
        assert len(answer.results) == len(TEXTS)
        [problem] = answer.problems
        assert problem.namespaces == [place("crew-0", ENTITY)]


FIRST: dict[str, Any] = {"all_namespaces": {}, "text": "x"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"text": "x"}, "namespaces"),
        ({"text": "x", "all_namespaces": {}, "namespaces": [{"memory_id": "a"}]}, "namespaces"),
        ({"text": "x", "namespaces": [{"memory_id": "a"}, {}]}, "namespaces[1].memory_id"),
        ({**FIRST, "text": " "}, "text"),
        ({**FIRST, "limit": 201}, "limit"),
        ({**FIRST, "embedding_model": "test/wide"}, "embedding_model"),
        ({"all_namespaces": {}, "vector": {"values": [0]}}, "vector.values"),
        ({"all_namespaces": {}, "vector": {"values": [1]}, "mode": "SEARCH_MODE_TEXT"}, "vector"),
        ({**FIRST, "mode": "SEARCH_MODE_TEXT", "min_score": 0.5}, "min_score"),
        (
            {**FIRST, "all_namespaces": {"kinds": ["MEMORY_KIND_ENTITY"]}, "filter": {"categories": ["c"]}},
            "filter.categories",
        ),
        ({**FIRST, "all_namespaces": {"kinds": ["MEMORY_KIND_UNSPECIFIED"]}}, "all_namespaces.kinds[0]"),
    ],
)
async def test_a_query_that_cannot_be_answered_is_named(memory: Harness, query: dict[str, Any], field: str) -> None:
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub(memory.channel()).BatchSearchRecords(_batch(FIRST, query))
    assert refusal.fields == [f"queries[1].{field}"]


async def test_many_namespaces_are_searched_in_portions(memory: Harness) -> None:
    memories = stub(memory.channel())
    for number in range(103):
        await _save(memories, place(f"m{number:03}"), unified("storm", str(number)))
    token, seen = "", list[str]()
    while True:
        query = {"all_namespaces": {"page_token": token}, "text": "storm", "limit": 200}
        [answer] = (await memories.BatchSearchRecords(_batch(query))).answers
        seen += [memory_id for memory_id, _ in _found(answer)]
        token = answer.next_namespaces_token
        if not token:
            break
        assert len(seen) == 100
    assert seen == [f"m{number:03}" for number in range(103)]
    with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN") as refusal:
        await memories.BatchSearchRecords(_batch({"all_namespaces": {"page_token": "x"}, "text": "storm"}))
    assert refusal.fields == ["queries[0].all_namespaces.page_token"]


async def test_answers_share_a_message(memory: Harness) -> None:
    memories = stub(memory.channel())
    for crew in ("a", "b"):
        for number in range(4):
            await _save(memories, place(crew), unified(f"{number} " + "storm " * 100_000, f"{crew}{number}"))
    query = {"all_namespaces": {}, "text": "storm"}
    answers = (await memories.BatchSearchRecords(_batch(query, query))).answers
    assert [len(answer.results) for answer in answers] == [3, 3]
    assert all(answer.cut for answer in answers)
    [one] = (await memories.BatchSearchRecords(_batch({**query, "limit": 6}))).answers
    assert len(one.results) == 6
    assert not one.cut


async def test_one_query_of_an_index_serves_all_its_crews(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    memories = stub(world.harness.channel())
    await _fill(memories, "sales")
    world.vectors.clear_log()
    query: dict[str, Any] = {"all_namespaces": {}, "text": "storm lamp"}
    request = _batch(query, {**query, "mode": "SEARCH_MODE_TEXT"})
    near, words = (await memories.BatchSearchRecords(request)).answers
    assert len(near.results) == len(TEXTS) + 1
    assert {result.crew_name for result in near.results} == {
        "Crew 0",
        "Crew 1",
        "",
    }
    assert near.merge == batch_pb.SEARCH_MERGE_SCORE
    assert words.merge == batch_pb.SEARCH_MERGE_RANK
    assert len(world.vectors.requests(path="/query")) == 4
    # The entities' index is gone: the others are answered.
    name = index_name("entity")
    await indexes_stub(world.harness).DeleteIndex(index_pb.DeleteIndexRequest(index=name, confirm_name=name))
    [answer] = (await memories.BatchSearchRecords(_batch(query))).answers
    assert len(answer.results) == len(TEXTS)
    [problem] = answer.problems
    assert problem.reason
    assert "entity" in problem.message
    assert problem.namespaces == [place("crew-0", ENTITY)]


KEYS = [NamespaceKey("sales", name, MemoryKind.UNIFIED) for name in "abc"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=3, max_size=3),
    st.permutations(range(3)),
    st.integers(1, 8),
)
def test_the_best_are_the_same_in_whatever_order_namespaces_answer(
    scores: list[list[int]], order: list[int], limit: int
) -> None:
    answers = [sorted(own, reverse=True) for own in scores]
    best = Best(limit, by_score=True)
    for place_of in order:
        found = [
            Found(Record(f"{place_of}-{n}", Unified("x")), score, score) for n, score in enumerate(answers[place_of])
        ]
        best.add(Part(place_of, [KEYS[place_of]]), SearchOutcome(found[:limit]))
    expected = sorted((-score, part, n) for part, own in enumerate(answers) for n, score in enumerate(own))[:limit]
    assert [result.record.id for result in best.outcome().results] == [f"{part}-{n}" for _, part, n in expected]
    assert all(result.key == KEYS[int(result.record.id[0])] for result in best.outcome().results)


def test_what_was_not_read_of_a_namespace_is_not_overtaken() -> None:
    best = Best(10, by_score=True)
    best.add(Part(0, KEYS[:1]), SearchOutcome([Found(Record("long", Unified("x")), 0.9, 0.9)], cut=True))
    best.add(
        Part(1, KEYS[1:2]), SearchOutcome([Found(Record(n, Unified("x")), float(n), 0.0) for n in ("0.95", "0.5")])
    )
    outcome = best.outcome()
    assert [found.record.id for found in outcome.results] == ["0.95", "long"]
    assert outcome.cut


def _results(*sizes: int, crew_name: str = "") -> list[Placed]:
    info = NamespaceInfo(KEYS[0], EmbeddingSpace("test/embed", 32), 0, 0, crew_name)
    return [Placed.of(Found(Record(str(n), Unified("x" * size)), 1.0, 1.0), info) for n, size in enumerate(sizes)]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 4000), max_size=6).map(lambda sizes: _results(*sizes)), max_size=4),
    st.integers(1, 20_000),
)
def test_trimming_each_space_first_changes_nothing(spaces: list[list[Placed]], max_bytes: int) -> None:
    whole = [Fitting(some, cut=False) for some in spaces]
    trimmed = [Fitting.of(some, max_bytes) for some in spaces]
    assert Fitting.of(in_turn(trimmed), max_bytes).results == Fitting.of(in_turn(whole), max_bytes).results


@pytest.mark.parametrize("crew_name", ["", "Crew", "\u6d77" * 256])
def test_a_result_takes_no_more_than_it_is_counted_as(crew_name: str) -> None:
    for placed in _results(1, 1000, crew_name=crew_name):
        assert answer_to_proto(Answer(results=[placed])).ByteSize() <= placed.most_bytes
