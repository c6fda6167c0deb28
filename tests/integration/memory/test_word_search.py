"""Searches for words: each store against the plain definition, and over gRPC."""

import asyncio
import contextlib
import functools
import sqlite3
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from coxswain.memory.v1 import memory_pb2 as pb
from services.common.db.database import Database
from services.common.db.migrate import downgrade_database, upgrade_database
from services.memory.domain.filters import EVERYTHING, Filter, MetadataComparison, MetadataCondition
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Body, Document, Entity, MemoryKind, Record, Unified
from services.memory.domain.searches import WordQuery
from services.memory.domain.vectors import EmbeddingSpace, unit_vector
from services.memory.domain.words import WordedText, ranked_by_words, terms_of
from services.memory.filters import visibility
from services.memory.stores.base import MemoryStore
from services.memory.stores.chroma.directories import ChromaDirectories
from services.memory.stores.chroma.store import ChromaMemoryStore
from services.memory.stores.sql import rows as rows_module
from services.memory.stores.sql.store import SqlMemoryStore
from services.memory.tables import record_words
from tests.integration.auth.support import refused
from tests.integration.memory.store_model import KEYS, NOW, OPERATIONS, SPACE, Model, apply, matches
from tests.integration.memory.support import EmbeddingModels, place, stub, unified
from tests.support.harness import Harness
from tests.support.service_tables import make_service_tables

Served = tuple[Harness, EmbeddingModels]
QUESTIONS = st.sampled_from(["alpha", "SS ete", "beta-gamma", "gamma beta", 'quote " %', "none", "and-ss beta"])
CHOSEN = st.sampled_from(
    [
        EVERYTHING,
        Filter(),
        Filter(scope_prefix="/a"),
        Filter(expression=MetadataCondition(("t",), MetadataComparison.EXISTS), include_private=True),
    ]
)


async def _check(store: MemoryStore, model: Model, question: str, chosen: Filter) -> None:
    terms = terms_of(question)
    for key, rows in model.items():
        texts = [
            WordedText(key.stored_id(record.id), microseconds(record.created_at or NOW), record.searched_text)
            for record in rows.values()
            if matches(key, visibility(chosen), record)
        ]
        names = {key.stored_id(record.id): record for record in rows.values()}
        expected = [
            (names[stored_id].id, score)
            for stored_id, score in ranked_by_words(terms, texts)
            if matches(key, chosen, names[stored_id])
        ]
        for limit in (2, 10):
            found = (await store.search_words(key, WordQuery(terms, limit, chosen), NOW)).results
            assert [(result.record.id, result.score) for result in found] == expected[:limit]


async def _words_kept(database: Database) -> int:
    [row] = await database.fetch(select(func.count().label("rows")).select_from(record_words))
    return int(row["rows"])


@functools.cache
def empty_file() -> bytes:
    """Return an SQLite file at the newest revision: to make one takes longer than to use it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "memory.db"
        make_service_tables("memory", f"sqlite:///{path}")
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()


async def _scenario(path: Path, operations: Sequence[tuple[Any, ...]], question: str, chosen: Filter) -> None:
    database = Database(f"sqlite:///{path}", "memory")
    try:
        store = SqlMemoryStore(database, cache_bytes=1 << 20, cached_namespace_bytes=1 << 20)
        model: Model = {key: {} for key in KEYS}
        for operation in operations:
            await apply([store], model, operation)
        await _check(store, model, question, chosen)
        assert await _words_kept(database) == sum(map(len, model.values()))
    finally:
        await database.close()


@given(OPERATIONS, QUESTIONS, CHOSEN)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_words_are_found_as_defined_whatever_was_saved_and_removed(
    operations: list[tuple[Any, ...]], question: str, chosen: Filter
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "memory.db"
        path.write_bytes(empty_file())
        asyncio.run(_scenario(path, operations, question, chosen))


def _saved(key: NamespaceKey, *texts: str) -> tuple[Any, ...]:
    return ("save", 0, key, [Record(f"r{n}", Unified(text), unit_vector([1, n, 0])) for n, text in enumerate(texts)])


async def test_both_databases_find_the_same_words(database_url: str) -> None:
    texts = [
        "order AB-17 it's",
        "order 17 of ab",
        "the ab\\c",
        "Zürich 東京",
        "",
        "the x:1 y",
        "\U0001f600",
        "the " * 300,
    ]
    for number, question in enumerate(["ab-17", "the zurich", "京", "x:1 order", "it's", "\U0001f600 order"]):
        key = NamespaceKey("sales", f"crew{number}", MemoryKind.UNIFIED)
        operations = [_saved(key, *texts), _saved(KEYS[2], *texts[:2]), ("delete", 0, key, ["r1"], None)]
        make_service_tables("memory", database_url)
        database = Database(database_url, "memory")
        store = SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
        model: Model = {key: {}, KEYS[2]: {}}
        for operation in operations:
            for record in operation[3] if operation[0] == "save" else ():
                record.created_at = NOW
            await apply([store], model, operation)
        await _check(store, model, question, EVERYTHING)
        await store.clear(KEYS[2])
        await database.close()


async def test_words_of_earlier_records_are_found_after_the_upgrade(database_url: str) -> None:
    make_service_tables("memory", database_url)
    database = Database(database_url, "memory", null_pool=True)
    store = SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
    bodies: list[Body] = [
        Unified("storm at Zürich"),
        Entity("Ann", "person", "storm"),
        Document("storm", title="Order AB-17"),
    ]
    for body in bodies:
        record = Record("r", body, unit_vector([1, 0, 0]))
        key = NamespaceKey("sales", "" if record.kind is MemoryKind.DOCUMENT else "crew", record.kind)
        await store.save(key, EmbeddingSpace("m", 3), [record], NOW)
    await downgrade_database("memory", database_url, "0006")
    await upgrade_database("memory", database_url)
    for kind, question in (
        (MemoryKind.UNIFIED, "zurich storm"),
        (MemoryKind.ENTITY, "ann"),
        (MemoryKind.DOCUMENT, "AB-17"),
    ):
        key = NamespaceKey("sales", "" if kind is MemoryKind.DOCUMENT else "crew", kind)
        found = await store.search_words(key, WordQuery(terms_of(question), 5), NOW)
        assert [result.record.id for result in found.results] == ["r"]
    assert await _words_kept(database) == 3
    await database.close()


async def _scores(store: MemoryStore, key: NamespaceKey, owner: str) -> list[tuple[str, float]]:
    query = WordQuery(terms_of("storm sea"), 5, Filter(owner=owner))
    return [(found.record.id, found.score) for found in (await store.search_words(key, query, NOW)).results]


async def _check_that_scores_keep_secrets(store: MemoryStore) -> None:
    """Scores are the same whatever private and expired records hold, for everybody but their owner."""
    key, vector = KEYS[0], unit_vector([1, 0, 0])
    ended = NOW - timedelta(hours=1)
    public = [Record(f"p{n}", Unified(text), vector) for n, text in enumerate(("a storm", "a sea", "the sea"))]
    hidden = [
        Record("s0", Unified("storm", private=True), vector, owner="subject:bob"),
        Record("s1", Unified("storm again", private=True), vector, owner="subject:bob"),
    ]
    await store.save(key, SPACE, public, ended)
    before = await _scores(store, key, "")
    assert len(before) == 3
    gone = Record("e", Unified("storm"), vector, expires_at=NOW)
    for new in (hidden, [gone]):
        await store.save(key, SPACE, new, ended)
        assert await _scores(store, key, "") == await _scores(store, key, "subject:olaf") == before
    own = dict(await _scores(store, key, "subject:bob"))
    assert own.keys() == {"p0", "p1", "p2", "s0", "s1"}
    assert own["p0"] < dict(before)["p0"]


async def test_scores_do_not_tell_which_words_hidden_records_hold(database_url: str) -> None:
    make_service_tables("memory", database_url)
    database = Database(database_url, "memory")
    await _check_that_scores_keep_secrets(SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0))
    await database.close()


async def test_a_page_of_long_records_is_read_without_those_of_earlier_pages(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "BYTES_AT_ONCE", 10_000)
    monkeypatch.setattr(rows_module, "RECORDS_AT_ONCE", 4)
    make_service_tables("memory", database_url)
    database = Database(database_url, "memory")
    store = SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
    key = KEYS[0]
    records = [Record(f"r{n:02}", Unified("sea " + "x" * 1000), unit_vector([1, 0, 0])) for n in range(40)]
    await store.save(key, SPACE, records, NOW)
    found: list[str] = []
    for _ in range(20):
        page = await store.search_words(key, WordQuery(terms_of("sea"), 15, skip=len(found)), NOW)
        found += [result.record.id for result in page.results]
        if not page.cut and len(page.results) < 15:
            break
    assert sorted(found) == [record.id for record in records]
    await database.close()


def test_chroma_finds_words_as_defined(tmp_path: Path) -> None:
    async def scenario() -> None:
        url = f"sqlite:///{tmp_path / 'memory.db'}"
        make_service_tables("memory", url)
        database = Database(url, "memory")
        store = ChromaMemoryStore(database, ChromaDirectories(tmp_path / "chroma"))
        model: Model = {key: {} for key in KEYS}
        operation = _saved(KEYS[0], "order AB-17", "order 17 of ab", "the storm")
        for record in operation[3]:
            record.created_at = NOW
        await apply([store], model, operation)
        for question in ("order ab-17", "storm"):
            await _check(store, model, question, EVERYTHING)
        await store.clear(KEYS[0])
        await _check_that_scores_keep_secrets(store)
        await database.close()

    asyncio.run(scenario())


async def _search(memories: Any, text: str, mode: str, **fields: Any) -> pb.SearchRecordsResponse:
    request = pb.SearchRecordsRequest(
        namespace=place(), text=text, mode=pb.SearchMode.Value(f"SEARCH_MODE_{mode}"), **fields
    )
    response: pb.SearchRecordsResponse = await memories.SearchRecords(request)
    return response


def _ids(response: pb.SearchRecordsResponse) -> list[str]:
    return [result.record.id for result in response.results]


async def _fill(memories: Any) -> None:
    records = [unified(f"memory number {n + 100} of the sea and the wind", f"m{n}") for n in range(30)]
    records.append(unified("customer asked about order AB-1734/9 and was told to wait", "order"))
    records.append(unified("customer asked about order 9 of AB and 1734 others", "near"))
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))


async def test_words_are_found_without_a_model(served: Served) -> None:
    harness, models = served
    memories = stub(harness.channel())
    await _fill(memories)
    embedded = len(models.texts)
    response = await _search(memories, "AB-1734/9", "TEXT")
    assert _ids(response) == ["order", "near"]
    assert response.results[0].score == 1
    assert 0 < response.results[1].score < 1
    assert response.results[0].similarity == 0
    assert len(models.texts) == embedded
    assert _ids(await _search(memories, "AB-1734/9", "TEXT", filter=pb.RecordFilter(scope_prefix="/none"))) == []

    paged: list[str] = []
    token, pages = "", 0
    while token or not pages:
        part = await _search(memories, "sea", "TEXT", limit=7, page_token=token)
        paged += _ids(part)
        token, pages = part.next_page_token, pages + 1
    assert paged == _ids(await _search(memories, "sea", "TEXT", limit=100))
    assert len(paged) == 30


async def test_words_and_vectors_together(served: Served) -> None:
    memories = stub(served[0].channel())
    await _fill(memories)
    response = await _search(memories, "what about AB-1734/9", "HYBRID", limit=5)
    assert "order" in _ids(response)[:2]
    assert len(response.results) == 5
    assert 0 < response.results[0].similarity <= 1
    assert [result.score for result in response.results] == sorted((r.score for r in response.results), reverse=True)
    assert not response.results[0].record.embedding

    everything = _ids(await _search(memories, "sea and order", "HYBRID", limit=100))
    assert sorted(everything) == sorted([*(f"m{n}" for n in range(30)), "order", "near"])
    paged: list[str] = []
    token, pages = "", 0
    while token or not pages:
        part = await _search(memories, "sea and order", "HYBRID", limit=9, page_token=token)
        paged += _ids(part)
        token, pages = part.next_page_token, pages + 1
    assert paged == everything
    diverse = await _search(memories, "sea and order", "HYBRID", limit=5, diversity=0.5, include_embeddings=True)
    assert _ids(diverse)[0] == everything[0]
    assert all(result.record.embedding for result in diverse.results)
    assert _ids(await _search(memories, "?!", "HYBRID", limit=3))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"mode": "TEXT", "text": "?!"}, "text"),
        ({"mode": "TEXT", "text": "x", "min_score": 0.5}, "min_score"),
        ({"mode": "HYBRID", "text": "x", "limit": 201}, "limit"),
        ({"mode": "HYBRID", "text": "x", "ranking": pb.Ranking(recency_weight=1)}, "ranking"),
    ],
)
async def test_what_does_not_fit_the_mode_is_refused(memory: Harness, fields: dict[str, Any], field: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await _search(stub(memory.channel()), fields.pop("text"), fields.pop("mode"), **fields)
    assert refusal.fields == [field]


async def test_a_vector_has_no_words(memory: Harness) -> None:
    request = pb.SearchRecordsRequest(namespace=place(), vector=pb.Vector(values=[1]), mode=pb.SEARCH_MODE_HYBRID)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub(memory.channel()).SearchRecords(request)
    assert refusal.fields == ["vector"]
