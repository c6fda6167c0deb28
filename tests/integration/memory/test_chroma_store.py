"""ChromaDB as the default store: the same promises of isolation and filters, in directories of its own."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from coxswain.memory.v1 import memory_pb2 as pb
from services.common.db.database import Database
from services.common.errors import FailedPrecondition
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, ShortTerm, Unified
from services.memory.domain.searches import Query
from services.memory.domain.vectors import EmbeddingSpace, unit_vector
from services.memory.settings import MemorySettings
from services.memory.stores.chroma.directories import ChromaDirectories
from services.memory.stores.chroma.store import ChromaMemoryStore
from tests.integration.memory.store_model import (
    FILTERS,
    KEYS,
    NOW,
    OPERATIONS,
    SPACE,
    VECTORS,
    Model,
    apply,
    check,
)
from tests.integration.memory.support import place, serve_memory, stub, unified
from tests.support.harness import BOB
from tests.support.service_tables import make_service_tables


@asynccontextmanager
async def _store(directory: Path) -> AsyncIterator[ChromaMemoryStore]:
    url = f"sqlite:///{directory / 'memory.db'}"
    make_service_tables("memory", url)
    database = Database(url, "memory")
    try:
        yield ChromaMemoryStore(database, ChromaDirectories(directory / "chroma"))
    finally:
        await database.close()


@given(OPERATIONS, FILTERS, VECTORS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_operation_of_one_namespace_is_seen_in_another(
    operations: list[tuple[Any, ...]], chosen: Filter, vector: Any
) -> None:
    async def scenario() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with _store(Path(directory)) as store:
                model: Model = {key: {} for key in KEYS}
                for operation in operations:
                    await apply([store], model, operation)
                await check([store], model, EVERYTHING, vector)
                await check([store], model, chosen, vector)

    asyncio.run(scenario())


async def test_a_record_saved_anew_keeps_nothing_of_what_it_was(tmp_path: Path) -> None:
    async with _store(tmp_path) as store:
        for body in (Unified("first", categories=("x",), last_accessed=NOW), Unified("second")):
            await store.save(KEYS[0], SPACE, [Record("r", body, unit_vector([1, 0, 0]), created_at=NOW)], NOW)
        (record,) = await store.get(KEYS[0], ["r"], NOW, embeddings=False)
        assert record.body == Unified("second")


async def test_more_records_than_it_writes_at_once_can_be_touched_and_removed(tmp_path: Path) -> None:
    async with _store(tmp_path) as store:
        key, ids = KEYS[0], [f"r{n}" for n in range(5500)]
        for start in range(0, len(ids), 1000):
            records = [Record(name, Unified("x"), unit_vector([1, 0, 0])) for name in ids[start : start + 1000]]
            await store.save(key, SPACE, records, NOW)
        later = NOW + timedelta(hours=1)
        assert await store.touch(key, ids, later) == len(ids)
        (last,) = await store.get(key, ids[-1:], NOW, embeddings=False)
        assert last.body == Unified("x", last_accessed=later)
        assert await store.delete(key, ids, None, NOW) == len(ids)


async def test_each_crew_has_a_directory_of_its_own_that_no_id_leads_out_of(tmp_path: Path) -> None:
    directories = ChromaDirectories(tmp_path / "chroma")
    crews = ["a", "b", "../../etc", "..", "a/b", "documents", "x" * 120, "A", "ä"]
    paths = {
        directories.path(NamespaceKey(group, crew, MemoryKind.UNIFIED)) for group in ("sales", "../x") for crew in crews
    }
    assert len(paths) == 2 * len(crews)
    for path in paths:
        assert path.resolve().parent.parent == (tmp_path / "chroma").resolve()
        assert path.name.startswith("coxswain_default_")
    assert directories.path(NamespaceKey("sales", "a", MemoryKind.UNIFIED)).name == "coxswain_default_a"
    assert directories.path(NamespaceKey("sales", "", MemoryKind.DOCUMENT)) not in paths


async def test_the_space_is_fixed_until_the_namespace_is_cleared_and_short_terms_end(tmp_path: Path) -> None:
    async with _store(tmp_path) as store:
        key = NamespaceKey("sales", "a", MemoryKind.SHORT_TERM)
        records = [
            Record(name, ShortTerm(name, ttl_hours=hours), unit_vector([1, 0, 0]))
            for name, hours in (("hour", 1), ("day", 24))
        ]
        await store.save(key, SPACE, records, NOW)
        later = NOW + timedelta(hours=1)
        found = (await store.search(key, Query(unit_vector([1, 0, 0]), 5), later)).results
        assert [f.record.id for f in found] == ["day"]
        assert (await store.count(key, EVERYTHING, later)).count == 1
        with pytest.raises(FailedPrecondition):
            await store.save(key, EmbeddingSpace("other", 3), records, NOW)
        # What ended goes with the next save, and is counted no more.
        again = Record("hour", ShortTerm("hour", ttl_hours=1), unit_vector([1, 0, 0]))
        await store.save(key, SPACE, [again, Record("new", ShortTerm("new", ttl_hours=1), again.embedding)], later)
        (record,) = await store.get(key, ["hour"], later, embeddings=False)
        assert record.created_at == later
        assert (await store.namespaces("sales", 5, None))[0].record_count == 3
        assert await store.clear(key) == 3
        assert await store.space(key) is None


async def test_memories_survive_a_new_start(tmp_path: Path) -> None:
    async with _store(tmp_path) as store:
        await store.save(KEYS[0], SPACE, [Record("r", Unified("text"), unit_vector([1, 0, 0]))], NOW)
    async with _store(tmp_path) as store:
        (record,) = await store.get(KEYS[0], ["r"], NOW, embeddings=True)
        assert record.body == Unified("text")


async def test_the_service_serves_it_when_told_to(tmp_path: Path) -> None:
    async with serve_memory(tmp_path, settings=MemorySettings(default_store="chroma")) as (harness, _):
        alice, bob = stub(harness.channel()), stub(harness.channel(BOB))
        for memories, content in ((alice, "cats of sales"), (bob, "cats of legal")):
            await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified(content, "same")]))
        for memories, content in ((alice, "cats of sales"), (bob, "cats of legal")):
            found = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text="cats"))
            assert [result.record.unified.content for result in found.results] == [content]
        assert len(list((tmp_path / "chroma").glob("*/coxswain_default_crew"))) == 2


async def test_a_row_that_something_else_has_written_is_a_record_whose_id_is_its_primary_key(tmp_path: Path) -> None:
    async with _store(tmp_path) as store:
        key = KEYS[0]
        own = {"group_id": key.group_id, "crew_id": key.memory_id, "content": "foreign"}
        rows: dict[str, dict[str, Any]] = {
            "plain": {**own, "created_at": "2026-01-02T03:04:05Z", "metadata": '{"k":1}'},
            "timeless": {**own, "categories": "x, y", "metadata": "not json"},
            "empty": {**own, "content": ""},
            "theirs": {**own, "group_id": "somebody"},
        }
        await store.save(key, SPACE, [Record("r", Unified("own"), unit_vector([0, 1, 0]))], NOW)
        await store._directories.run(
            key,
            lambda collection: collection.upsert(
                ids=list(rows), embeddings=[[1.0, 0.0, 0.0]] * len(rows), metadatas=list(rows.values())
            ),
        )
        page = await store.page(key, EVERYTHING, 10, None, NOW, embeddings=False)
        assert [(record.id, record.metadata) for record in page.records] == [
            ("r", "{}"),
            ("plain", '{"k":1}'),
            ("timeless", "{}"),
        ]
        assert page.unreadable == 1
        read = [
            record.id
            async for portion in store.read_through(key, EVERYTHING, "", NOW, embeddings=True)
            for _, record in portion
        ]
        assert sorted(read) == ["plain", "r", "timeless"]
        for chosen in (EVERYTHING, Filter(categories=frozenset({"y"}), include_private=True)):
            found = await store.search(key, Query(unit_vector([1, 0, 0]), 10, chosen), NOW)
            ids = {result.record.id for result in found.results}
            assert ids == ({"plain", "r", "timeless"} if chosen is EVERYTHING else {"timeless"})
        (record,) = await store.get(key, ["plain"], NOW, embeddings=True)
        assert record.embedding is not None
        await store.save(key, SPACE, [Record("plain", Unified("new"), unit_vector([1, 0, 0]))], NOW)
        (record,) = await store.get(key, ["plain"], NOW, embeddings=False)
        assert (record.body, record.stored_id) == (Unified("new"), "plain")
        assert await store.delete(key, ["plain", "timeless", "theirs"], None, NOW) == 2
        assert [r.id for r in await store.get(key, ["r", "plain", "timeless"], NOW, embeddings=False)] == ["r"]
