"""The default store against a plain model of it: random operations of several groups, several processes' caches."""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from prometheus_client import REGISTRY
from sqlalchemy import literal_column, update

from services.common.db.database import Database
from services.common.errors import FailedPrecondition
from services.memory import tables
from services.memory.domain import copies
from services.memory.domain.copies import identity_of
from services.memory.domain.filters import EVERYTHING, Comparison, Condition, Filter
from services.memory.domain.listings import ListPosition
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import (
    KIND_OF_BODY,
    Body,
    Document,
    Entity,
    LongTerm,
    MemoryKind,
    Record,
    ShortTerm,
    Unified,
)
from services.memory.domain.searches import Query
from services.memory.domain.vectors import EmbeddingSpace, unit_vector
from services.memory.repositories.namespaces import NamespaceRepository
from services.memory.stores.sql import reads as reads_module
from services.memory.stores.sql import remembered_blocks as blocks_module
from services.memory.stores.sql import rows as rows_module
from services.memory.stores.sql import search as search_module
from services.memory.stores.sql import statements
from services.memory.stores.sql import store as store_module
from services.memory.stores.sql.blocks import ROW_BYTES
from services.memory.stores.sql.shortlist_vectors import best_of_shortlist
from services.memory.stores.sql.store import SqlMemoryStore
from services.memory.tables import namespaces
from services.memory.usecases.store_size import measure_store
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
    matches,
)
from tests.support.service_tables import make_service_tables


@asynccontextmanager
async def _stores(url: str) -> AsyncIterator[list[SqlMemoryStore]]:
    """One store that remembers, another process's that does with quantised vectors, and one that always reads all."""
    make_service_tables("memory", url)
    databases = [Database(url, "memory") for _ in range(3)]
    caches = [(1 << 20, 1 << 20), (1 << 20, 1 << 20), (0, 0)]
    stores = [
        SqlMemoryStore(database, cache_bytes=total, cached_namespace_bytes=one)
        for database, (total, one) in zip(databases, caches, strict=True)
    ]
    try:
        with patch.object(stores[1]._search._blocks, "_as_bytes", return_value=True):
            yield stores
    finally:
        for database in databases:
            await database.close()


@contextmanager
def _portions(rows: int) -> Iterator[None]:
    """Have a few rows be a portion, as thousands are."""
    with ExitStack() as patches:
        for module in (statements, store_module, reads_module, search_module, blocks_module):
            patches.enter_context(patch.object(module, "ROWS_IN_CHUNK", rows))
        for module in (search_module, blocks_module):
            patches.enter_context(patch.object(module, "VECTORS_IN_CHUNK", rows))
        for module in (reads_module, search_module):
            patches.enter_context(patch.object(module, "TEXTS_IN_CHUNK", rows))
        patches.enter_context(patch.object(rows_module, "RECORDS_AT_ONCE", rows))
        patches.enter_context(patch.object(reads_module, "_LISTED_AT_ONCE", rows))
        yield


@given(OPERATIONS, FILTERS, VECTORS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(
    [("save", 0, KEYS[0], [Record("r1", Unified("ß"), unit_vector((1, 0, 0)), created_at=NOW)])],
    Filter(conditions=(Condition("content", Comparison.CONTAINS, ("SS",)),)),
    (1, 0, 0),
)
def test_no_operation_of_one_namespace_is_seen_in_another_and_all_processes_agree(
    operations: list[tuple[Any, ...]], chosen: Filter, vector: Any
) -> None:
    async def scenario() -> None:
        with tempfile.TemporaryDirectory() as directory, _portions(2):
            async with _stores(f"sqlite:///{Path(directory) / 'memory.db'}") as stores:
                model: Model = {key: {} for key in KEYS}
                for operation in operations:
                    await apply(stores, model, operation)
                    # What each process remembers from here on must not outlive the next change.
                    await check(stores[:2], model, EVERYTHING, vector)
                await check(stores, model, chosen, vector)

    asyncio.run(scenario())


async def test_both_databases_find_the_same_for_every_filter(database_url: str) -> None:
    """Texts order by code point, and words, categories and metadata are exact, on PostgreSQL as on SQLite."""
    async with _stores(database_url) as stores:
        key = KEYS[0]
        bodies = [
            Unified("alpha", "/", ("x",), 0.5),
            Unified("Beta gamma", "/a", ('x","y',), 0.25, "alice", True),
            Unified("été", "/a/b", ("x,", "y"), float(np.float32(0.1)), last_accessed=NOW),
            Unified("ß and ss", "/ab", ()),
            Unified("Zeta 100%", "/a_", ("É",)),
        ]
        rows = {
            f"r{place}": Record(
                f"r{place}", body, unit_vector((1, place, 0)), metadata=f'{{"t":{place}}}', created_at=NOW
            )
            for place, body in enumerate(bodies)
        }
        await stores[0].save(key, SPACE, list(rows.values()), NOW)
        await stores[0].save(KEYS[2], SPACE, [Record("r0", Unified("alpha"), unit_vector((1, 0, 0)))], NOW)
        model: Model = {KEYS[0]: rows}
        for chosen in (
            Filter(),
            EVERYTHING,
            *(
                Filter(conditions=(Condition("content", comparison, (value,)),), include_private=True)
                for comparison in Comparison
                for value in ("alpha", "Z", "été", "ss", "100")
            ),
            Filter(categories=frozenset({"x"})),
            Filter(categories=frozenset({",", "É"})),
            Filter(metadata={"t": "2"}),
            Filter(metadata={"t": "2.0"}),
            Filter(scope_prefix="/a", include_private=True),
            Filter(source="alice"),
            Filter(conditions=(Condition("importance", Comparison.EQUAL, (float(np.float32(0.1)),)),)),
            Filter(conditions=(Condition("last_accessed", Comparison.NOT_EQUAL, (NOW,)),), include_private=True),
        ):
            await _check_page(stores, model, chosen)


async def _check_page(stores: Sequence[SqlMemoryStore], model: Model, chosen: Filter) -> None:
    for key, rows in model.items():
        expected = sorted(record.id for record in rows.values() if matches(key, chosen, record))
        for store in stores:
            page = await store.page(key, chosen, 100, None, NOW, embeddings=False)
            assert sorted(record.id for record in page.records) == expected, chosen
            found = (await store.search(key, Query(unit_vector((1, 0, 0)), 100, chosen), NOW)).results
            assert sorted(f.record.id for f in found) == expected, chosen
            assert (await store.count(key, chosen, NOW)).count == len(expected)


async def test_saving_again_changes_the_record_and_keeps_its_time_and_the_count(database_url: str) -> None:
    async with _stores(database_url) as (store, other, _):
        key = KEYS[0]
        for content, now in (("first", NOW), ("second", NOW + timedelta(days=1))):
            await store.save(key, SPACE, [Record("r", Unified(content), unit_vector((1, 2, 3)))], now)
            assert len((await other.search(key, Query(unit_vector((1, 2, 3)), 5), now)).results) == 1
        (record,) = await store.get(key, ["r"], NOW, embeddings=False)
        assert (record.body, record.created_at) == (Unified("second"), NOW)
        (info,) = await store.namespaces("sales", 5, None)
        assert (info.record_count, info.version) == (1, 2)


async def test_how_much_is_stored_is_a_metric(database_url: str) -> None:
    async with _stores(database_url) as stores:
        database = stores[0]._database
        await measure_store(database)
        empty = REGISTRY.get_sample_value("coxswain_memory_store_bytes") or 0
        await _fill(stores[0], KEYS[0], 500)
        # One that was cleared, and one of a kind there is not, as a newer release may have written.
        for key in KEYS[1:]:
            await _fill(stores[0], key, 5)
        await stores[0].clear(KEYS[1])
        async with database.write() as connection:
            of_another_kind = update(namespaces).where(namespaces.c.id == KEYS[2].id)
            await connection.execute(of_another_kind.values(kind=literal_column("99")))
        await measure_store(database)
    unified = {"kind": "UNIFIED"}
    assert REGISTRY.get_sample_value("coxswain_memory_records", unified) == 500
    assert REGISTRY.get_sample_value("coxswain_memory_namespaces", unified) == 1
    assert REGISTRY.get_sample_value("coxswain_memory_records", {"kind": "ENTITY"}) == 0
    assert (REGISTRY.get_sample_value("coxswain_memory_store_bytes") or 0) > empty > 0


async def test_the_last_of_equal_ids_in_one_save_wins(database_url: str) -> None:
    async with _stores(database_url) as (store, _, _):
        records = [Record("r", Unified(text), unit_vector((1, 0, 0))) for text in ("first", "last")]
        await store.save(KEYS[0], SPACE, records, NOW)
        (record,) = await store.get(KEYS[0], ["r"], NOW, embeddings=False)
        assert record.body == Unified("last")
        assert (await store.namespaces("sales", 5, None))[0].record_count == 1


async def test_a_save_that_fails_stores_nothing_of_its_batch(database_url: str) -> None:
    async with _stores(database_url) as (store, _, _):
        key = KEYS[0]
        good = Record("good", Unified("text"), unit_vector((1, 0, 0)))
        bad = Record("bad", Unified("text"), unit_vector((1, 0, 0)))
        bad.embedding = None
        with pytest.raises(ValueError, match="embedding"):
            await store.save(key, SPACE, [good, bad], NOW)
        assert await store.space(key) is None
        assert await store.get(key, ["good"], NOW, embeddings=False) == []


async def test_first_writers_with_different_models_cannot_both_win(database_url: str) -> None:
    async with _stores(database_url) as (store, other, _):
        key = KEYS[0]
        spaces = [EmbeddingSpace("a", 3), EmbeddingSpace("b", 3)]
        outcomes = await asyncio.gather(
            *(
                writer.save(key, space, [Record(space.model, Unified("text"), unit_vector((1, 0, 0)))], NOW)
                for writer, space in zip((store, other), spaces, strict=True)
            ),
            return_exceptions=True,
        )
        (refusal,) = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert isinstance(refusal, FailedPrecondition)
        assert refusal.reason == "EMBEDDING_MISMATCH"
        assert (await store.count(key, EVERYTHING, NOW)).count == 1


async def test_clearing_lets_the_next_write_choose_another_model(database_url: str) -> None:
    async with _stores(database_url) as (store, other, _):
        key = KEYS[0]
        await store.save(key, SPACE, [Record("r", Unified("text"), unit_vector((1, 0, 0)))], NOW)
        await other.search(key, Query(unit_vector((1, 0, 0)), 5), NOW)
        assert await store.clear(key) == 1
        assert await store.space(key) is None
        wide = EmbeddingSpace("wide", 4)
        await store.save(key, wide, [Record("s", Unified("new"), unit_vector((1, 0, 0, 1)))], NOW)
        found = await other.search(key, Query(unit_vector((1, 0, 0, 1)), 5), NOW)
        assert [f.record.id for f in found.results] == ["s"]
        with pytest.raises(FailedPrecondition) as refusal:
            await other.search(key, Query(unit_vector((1, 0, 0)), 5), NOW)
        assert refusal.value.metadata["expected_dimension"] == "4"


async def _fill(store: SqlMemoryStore, key: NamespaceKey, count: int, first: int = 0) -> None:
    bodies = {f"r{n}": Unified(f"text {n}", categories=("even",) if n % 2 == 0 else ()) for n in range(first, count)}
    await store.save(key, SPACE, [Record(n, body, unit_vector((1, 0, 0))) for n, body in bodies.items()], NOW)


async def test_what_is_saved_during_a_clear_stays_and_others_can_save(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _stores(database_url) as (store, other, _):
        key, portions, saving = KEYS[0], [], []

        async def observed(*arguments: Any) -> int:
            portions.append(await statements.delete_some(*arguments))
            if len(portions) == 1:
                saving.append(asyncio.create_task(_fill(other, key, 20, first=10)))
            return portions[-1]

        monkeypatch.setattr(store_module, "delete_some", observed)
        await _fill(store, key, 10)
        with _portions(4):
            assert await store.clear(key) == 10
        assert portions == [4, 4, 2]
        await asyncio.gather(*saving)
        for reader in (store, other):
            found = await reader.search(key, Query(unit_vector((1, 0, 0)), 50, EVERYTHING), NOW)
            assert sorted(f.record.id for f in found.results) == [f"r{n}" for n in range(10, 20)]
        [namespace] = await store.namespaces(key.group_id, 5, None)
        assert (namespace.record_count, namespace.space) == (10, SPACE)


REMOVE_RECORDS = NamespaceRepository.remove_records


async def test_a_removal_that_was_cut_short_has_removed_a_part_and_can_be_repeated(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _stores(database_url) as (store, other, _):
        key = KEYS[0]
        await _fill(store, key, 10)
        question = Query(unit_vector((1, 0, 0)), 50, EVERYTHING)
        removals: list[tuple[Callable[[], Awaitable[int]], int]] = [
            (lambda: store.delete(key, None, Filter(categories=frozenset({"even"})), NOW), 5),
            (lambda: store.clear(key), 0),
        ]
        for removal, left in removals:
            noted = 0

            async def cut(*arguments: Any) -> None:
                nonlocal noted
                await REMOVE_RECORDS(*arguments)
                noted += 1
                if noted == 2:
                    raise asyncio.CancelledError

            with _portions(2):
                with monkeypatch.context() as patched, pytest.raises(asyncio.CancelledError):
                    patched.setattr(NamespaceRepository, "remove_records", cut)
                    await removal()
                part = (await other.search(key, question, NOW)).results
                assert (await other.count(key, EVERYTHING, NOW)).count == len(part) > left
                assert [info.record_count for info in await other.namespaces(key.group_id, 5, None)] == [len(part)]
                assert await removal() == len(part) - left
            assert len((await other.search(key, question, NOW)).results) == left
        assert await store.space(key) is None


async def test_short_term_memories_end_and_are_swept(database_url: str) -> None:
    async with _stores(database_url) as stores:
        key = NamespaceKey("sales", "a", MemoryKind.SHORT_TERM)
        records = [
            Record(name, ShortTerm(name, ttl_hours=hours), unit_vector((1, 0, 0)))
            for name, hours in (("hour", 1), ("day", 24))
        ]
        await stores[0].save(key, SPACE, records, NOW)
        query = Query(unit_vector((1, 0, 0)), 5)
        for moment, alive in ((NOW, ["day", "hour"]), (NOW + timedelta(hours=1), ["day"])):
            for store in stores:
                assert sorted(f.record.id for f in (await store.search(key, query, moment)).results) == alive
                page = await store.page(key, Filter(), 5, None, moment, embeddings=False)
                assert sorted(r.id for r in page.records) == alive
                assert (await store.count(key, Filter(), moment)).count == len(alive)
                assert [r.id for r in await store.get(key, ["hour"], moment, embeddings=False)] == alive[1:]
        later = NOW + timedelta(hours=2)
        assert await stores[0].sweep(later) == 1
        assert await stores[0].sweep(later) == 0
        assert (await stores[0].namespaces("sales", 5, None))[0].record_count == 1
        # Looked at with a clock that is late, what was removed stays removed for every process.
        for store in stores:
            assert [f.record.id for f in (await store.search(key, query, NOW)).results] == ["day"]


async def test_a_memory_that_ended_and_is_saved_again_lives_anew(database_url: str) -> None:
    async with _stores(database_url) as stores:
        key = NamespaceKey("sales", "a", MemoryKind.SHORT_TERM)
        for age in (0, 1, 30):
            moment = NOW + timedelta(hours=age)
            saved = Record("r", ShortTerm("text", ttl_hours=1), unit_vector((1, 0, 0)))
            await stores[0].save(key, SPACE, [saved], moment)
            for store in stores:
                [found] = (await store.search(key, Query(unit_vector((1, 0, 0)), 5), moment)).results
                assert found.record.created_at == moment
            assert (await stores[0].namespaces("sales", 5, None))[0].record_count == 1


async def test_counts_and_what_each_process_remembers_are_right_after_everything_at_once(database_url: str) -> None:
    """Two processes save, replace, remove, touch, clear and search one namespace; versions only rise meanwhile."""
    async with _stores(database_url) as stores:
        key = NamespaceKey("sales", "crew", MemoryKind.SHORT_TERM)
        vector = unit_vector((1, 0, 0))

        async def work(number: int) -> list[int]:
            """The versions it saw. It goes on until it has looked often enough: others may have cleared all before."""
            choice = random.Random(number)
            store = stores[number % len(stores)]
            versions: list[int] = []
            step = 0
            while step < 12 or len(versions) <= 5:
                step += 1
                ids = choice.sample([f"r{n}" for n in range(12)], 4)
                match choice.choice(["save", "save", "save", "ids", "filter", "touch", "clear", "sweep"]):
                    case "save":
                        # Every third has ended already: it is replaced, counted and swept like the others.
                        records = [
                            Record(
                                record_id,
                                ShortTerm(f"{number} {step}", ttl_hours=1),
                                vector,
                                created_at=NOW - timedelta(hours=2 if choice.random() < 0.3 else 0),
                            )
                            for record_id in ids
                        ]
                        await store.save(key, SPACE, records, NOW)
                    case "ids":
                        await store.delete(key, ids, None, NOW)
                    case "filter":
                        word = Condition("content", Comparison.CONTAINS, (str(choice.randrange(8)),))
                        await store.delete(key, None, Filter(conditions=(word,)), NOW)
                    case "touch":
                        await store.search(key, Query(vector, 50, EVERYTHING), NOW)
                    case "clear":
                        await store.clear(key)
                    case "sweep":
                        await store.sweep(NOW)
                versions.extend(info.version for info in await store.namespaces("sales", 5, None))
            return versions

        with _portions(3):
            for versions in await asyncio.gather(*(work(number) for number in range(6))):
                assert versions == sorted(versions)
        await stores[0].sweep(NOW)
        counts = {(await store.count(key, EVERYTHING, NOW)).count for store in stores}
        assert len(counts) == 1
        for store in stores:
            found = (await store.search(key, Query(vector, 50, EVERYTHING), NOW)).results
            assert {len(found)} == counts
            assert {len((await store.page(key, EVERYTHING, 50, None, NOW, embeddings=False)).records)} == counts
            assert sum(info.record_count for info in await store.namespaces("sales", 5, None)) == len(found)


async def test_the_version_of_a_namespace_rises_over_every_clearing(database_url: str) -> None:
    async with _stores(database_url) as (store, other, _):
        key, seen = KEYS[0], []
        for dimension in (3, 2, 3):
            space = EmbeddingSpace("test/embed", dimension)
            record = Record("r", Unified(f"{dimension}"), unit_vector([1] * dimension))
            await store.save(key, space, [record], NOW)
            [result] = (await other.search(key, Query(unit_vector([1] * dimension), 5, EVERYTHING), NOW)).results
            assert result.record.body == Unified(f"{dimension}")
            seen += [info.version for info in await store.namespaces(key.group_id, 5, None)]
            assert await store.clear(key) == 1
            assert (await other.search(key, Query(unit_vector([1] * dimension), 5, EVERYTHING), NOW)).results == ()
        assert seen == sorted(set(seen))


async def test_ids_that_look_alike_are_different_ids(database_url: str) -> None:
    async with _stores(database_url) as (store, *_):
        names = ["é", "e\u0301", "E", "e", "e ", "\U0001f600" * 128]
        keys = [NamespaceKey("sales", name, MemoryKind.UNIFIED) for name in names]
        for key in keys:
            records = [Record(name, Unified(f"{key.memory_id}|{name}"), unit_vector((1, 0, 0))) for name in names]
            await store.save(key, SPACE, records, NOW)
        for key in keys:
            kept = await store.get(key, names, NOW, embeddings=False)
            assert [record.body for record in kept] == [Unified(f"{key.memory_id}|{name}") for name in names]
            assert (await store.count(key, EVERYTHING, NOW)).count == len(names)
        assert len(await store.namespaces("sales", 50, None)) == len(names)


async def test_a_list_of_long_records_is_read_in_portions_and_whole(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "BYTES_AT_ONCE", 10_000)
    monkeypatch.setattr(reads_module, "PAGE_BYTES", 10_000)
    async with _stores(database_url) as (store, other, scanning):
        key = KEYS[0]
        records = [Record(f"r{n}", Unified("x" * 1000), unit_vector((1, n, 0))) for n in range(60)]
        await store.save(key, SPACE, records, NOW)
        with _portions(2):
            listed: list[str] = []
            after = None
            while True:
                page = await other.page(key, EVERYTHING, 60, after, NOW, embeddings=True)
                assert 0 < len(page.records) < 20
                listed += [record.id for record in page.records]
                if not page.more:
                    break
                after = ListPosition(microseconds(NOW), key.stored_id(listed[-1]))
            assert sorted(listed) == sorted(record.id for record in records)
            for reader in (other, scanning):
                outcome = await reader.search(key, Query(unit_vector((1, 0, 0)), 60, EVERYTHING), NOW)
                assert outcome.cut
                ids = [found.record.id for found in outcome.results]
                assert ids == [f"r{n}" for n in range(len(ids))]
                assert 0 < len(ids) < 20


async def test_numbers_of_metadata_are_found_in_every_spelling(database_url: str) -> None:
    async with _stores(database_url) as stores:
        spellings = {"a": '{"n":1}', "b": '{"n":1.0}', "c": '{"n":1e0}', "d": '{"n":"1"}', "e": '{"n":true}'}
        await stores[0].save(
            KEYS[0],
            SPACE,
            [Record(name, Unified("x"), unit_vector((1, 0, 0)), metadata=text) for name, text in spellings.items()],
            NOW,
        )
        for store in stores:
            for value in ("1", "1.0"):
                chosen = Filter(metadata={"n": value}, include_private=True)
                found = (await store.search(KEYS[0], Query(unit_vector((1, 0, 0)), 10, chosen), NOW)).results
                assert {result.record.id for result in found} == {"a", "b", "c"}
        assert await stores[0].delete(KEYS[0], None, Filter(metadata={"n": "1"}), NOW) == 3
        assert (await stores[0].count(KEYS[0], EVERYTHING, NOW)).count == 2


async def test_records_of_every_kind_that_have_ended_are_swept(database_url: str) -> None:
    async with _stores(database_url) as (store, _, _):
        bodies: list[Body] = [Unified("x"), LongTerm("x"), Entity("x"), Document("x"), ShortTerm("x", ttl_hours=9)]
        keys = [NamespaceKey("sales", "a", KIND_OF_BODY[type(body)]) for body in bodies]
        for key, body in zip(keys, bodies, strict=True):
            ends = [None, NOW + timedelta(hours=1), NOW + timedelta(days=1)]
            records = [
                Record(str(n), deepcopy(body), unit_vector((1, 0, 0)), expires_at=end) for n, end in enumerate(ends)
            ]
            await store.save(key, SPACE, records, NOW)
        assert await store.sweep(NOW + timedelta(hours=1)) == len(keys)
        counts = {info.key: info.record_count for info in await store.namespaces("sales", 10, None)}
        assert counts == dict.fromkeys(keys, 2)
        assert await store.sweep(NOW + timedelta(days=2)) == len(keys) + 1


async def test_what_changed_nothing_leaves_the_version(database_url: str) -> None:
    async with _stores(database_url) as stores:
        store, key = stores[0], KEYS[0]
        await store.save(key, SPACE, [Record("r", Unified("x"), unit_vector((1, 0, 0)))], NOW)

        async def version() -> int:
            [info] = [info for info in await store.namespaces(key.group_id, 10, None) if info.key == key]
            return info.version

        before = await version()
        nowhere = Filter(scope_prefix="/nowhere", include_private=True)
        assert await store.touch(key, ["other"], NOW) == 0
        assert await store.touch(key, ["r"], NOW, chosen=nowhere) == 0
        assert await store.delete(key, ["other"], None, NOW) == 0
        assert await store.delete(key, ["r"], nowhere, NOW) == 0
        assert await version() == before
        assert await store.touch(key, ["r"], NOW) == 1
        assert await version() == before + 1
        assert await store.delete(key, ["r"], None, NOW) == 1
        assert await version() == before + 2
        assert await store.touch(KEYS[1], ["r"], NOW) == 0
        assert await store.delete(KEYS[1], ["r"], None, NOW) == 0


async def test_a_save_computes_each_identity_once_before_it_locks_others_out(database_url: str) -> None:
    async with _stores(database_url) as stores:
        store, key = stores[0], KEYS[0]
        computed: list[str] = []

        def counted(record: Record) -> str:
            # Neither on the event loop nor while others wait for the transaction.
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            assert not writing
            computed.append(record.text)
            return identity_of(record)

        writing: list[bool] = []
        write = store._database.write

        @asynccontextmanager
        async def noticed() -> AsyncIterator[Any]:
            async with write() as connection:
                writing.append(True)
                yield connection
                writing.clear()

        def records() -> list[Record]:
            return [Record(name, Unified(f"{name} x"), unit_vector((1, 0, 0))) for name in ("", "a")] + [
                Record("", Unified("again"), unit_vector((1, 0, 0))) for _ in range(2)
            ]

        with patch.object(store._database, "write", noticed), patch.object(copies, "identity_of", counted):
            first = await store.save(key, SPACE, records(), NOW)
            second = await store.save(key, SPACE, records(), NOW)
        assert computed == [" x", "a x", "again", "again"] * 2
        assert [saved.id for saved in first] == [saved.id for saved in second]
        outcomes = [[saved.outcome.name for saved in answer] for answer in (first, second)]
        assert outcomes == [
            ["CREATED", "CREATED", "CREATED", "EXISTING"],
            ["EXISTING", "REPLACED", "EXISTING", "EXISTING"],
        ]


async def test_a_namespace_with_removed_rows_is_remembered_up_to_the_bound(database_url: str) -> None:
    make_service_tables("memory", database_url)
    database = Database(database_url, "memory")
    rows = 20
    size = rows * (4 * SPACE.dimension + ROW_BYTES) + 200
    store, key = SqlMemoryStore(database, cache_bytes=size, cached_namespace_bytes=size), KEYS[0]
    query = Query(unit_vector((1, 0, 0)), 1)

    async def save(first: int, count: int) -> None:
        new = [Record(f"r{n}", Unified(f"{n}"), unit_vector((1, 0, 0))) for n in range(first, first + count)]
        await store.save(key, SPACE, new, NOW)

    await save(0, rows)
    await store.search(key, query, NOW)
    await store.delete(key, ["r0", "r1", "r2"], None, NOW)
    await save(rows, 3)
    await store.search(key, query, NOW)
    with patch.object(blocks_module, "vector_block", side_effect=AssertionError("read again")):
        assert len((await store.search(key, query, NOW)).results) == 1
    await database.close()


async def test_long_records_are_read_through_with_their_positions_found_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "BYTES_AT_ONCE", 10_000)
    monkeypatch.setattr(reads_module, "PAGE_BYTES", 10_000)
    async with _stores(database_url) as (store, *_):
        key, chosen = KEYS[0], Filter(metadata={"t": "1"}, include_private=True)
        records = [
            Record(
                f"r{n}",
                Unified("x" * 1000),
                unit_vector((1, n, 0)),
                metadata=f'{{"t":{n % 2}}}',
                created_at=NOW - timedelta(seconds=n),
            )
            for n in range(120)
        ]
        await store.save(key, SPACE, records, NOW)
        found: list[object] = []
        fetch = store._database.fetch

        async def counted(statement: Any, *parameters: Any) -> Any:
            found.append(statement)
            return await fetch(statement, *parameters)

        monkeypatch.setattr(store._database, "fetch", counted)
        with patch.object(reads_module, "_LISTED_AT_ONCE", 2):
            placed: list[tuple[str, str]] = []
            portions = 0
            async for portion in store.read_through(key, chosen, "", NOW, embeddings=True):
                portions += 1
                placed += [(position, record.id) for position, record in portion]
            assert portions > 5
            assert [record_id for _, record_id in placed] == [f"r{n}" for n in range(120) if n % 2]
            assert len(found) == 1
            after = placed[30][0]
            rest = [
                position
                async for portion in store.read_through(key, chosen, after, NOW, embeddings=False)
                for position, _ in portion
            ]
            assert rest == [position for position, _ in placed[31:]]


@pytest.mark.parametrize("broken", [b"", b"abc", b"\0" * 16, np.array([1, np.nan, 0], "<f4").tobytes()])
async def test_a_row_with_a_broken_vector_is_left_out_and_counted(database_url: str, broken: bytes) -> None:
    def left_out() -> float:
        return REGISTRY.get_sample_value("coxswain_memory_unreadable_rows_total", labels) or 0.0

    labels = {"kind": "UNIFIED", "store": "default"}
    async with _stores(database_url) as stores:
        key, table = KEYS[0], tables.records[MemoryKind.UNIFIED]
        await _fill(stores[0], key, 5)
        [lost] = [
            record.id for record in (await stores[0].page(key, EVERYTHING, 1, None, NOW, embeddings=False)).records
        ]
        async with stores[0]._database.write() as connection:
            row = table.c.id == key.stored_id(lost)
            await connection.execute(table.update().where(row).values(embedding=broken))
        for store in stores:
            before = left_out()
            for limit in (2, 10):
                outcome = await store.search(key, Query(unit_vector((1, 0, 0)), limit, EVERYTHING), NOW)
                assert len(outcome.results) == min(limit, 4)
                assert lost not in {found.record.id for found in outcome.results}
            assert left_out() > before


async def test_a_private_record_is_not_found_even_where_what_is_remembered_is_wrong(tmp_path: Path) -> None:
    async with _stores(f"sqlite:///{tmp_path / 'memory.db'}") as (store, *_):
        key = KEYS[0]
        secret = Record("s", Unified("secret", private=True), unit_vector((1, 0, 0)), owner="subject:bob")
        await store.save(key, SPACE, [secret, Record("p", Unified("public"), unit_vector((1, 1, 0)))], NOW)
        for limit in (10, 10, 100):
            seen = await store.search(key, Query(unit_vector((1, 0, 0)), limit), NOW)
            assert [found.record.id for found in seen.results] == ["p"]
            remembered = store._search._blocks.get(key)
            assert remembered is not None
            block = remembered[1]
            block.private[:] = False
            block._some_private = False


async def test_what_somebody_is_tied_to_is_found_in_what_is_remembered(database_url: str) -> None:
    async with _stores(database_url) as stores:
        key = KEYS[0]
        records = [
            Record(name, Unified(name), unit_vector((1, number, 0)), subjects=(name,))
            for number, name in enumerate(("bob", "olaf"))
        ]
        await stores[0].save(key, SPACE, records, NOW)
        chosen = Filter(subject="olaf", include_private=True)
        for store in stores:
            for limit in (10, 10, 100):
                found = (await store.search(key, Query(unit_vector((1, 0, 0)), limit, chosen), NOW)).results
                assert [result.record.id for result in found] == ["olaf"]


async def test_records_found_lately_are_read_again_once_they_change_and_only_then(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _stores(database_url) as (store, other, _):
        key, query = KEYS[0], Query(unit_vector((1, 0, 0)), 10)
        vector = unit_vector((1, 0, 0))
        await store.save(key, SPACE, [Record(f"r{n}", Unified(f"text {n}"), vector) for n in range(5)], NOW)
        read: list[str] = []

        def parse(of: NamespaceKey, rows: Sequence[Any]) -> dict[str, Record]:
            found = rows_module.parse_rows(of, rows)
            read.extend(record.id for record in found.values())
            return found

        monkeypatch.setattr(search_module, "parse_rows", parse)

        async def found() -> dict[str, Unified]:
            read.clear()
            bodies = {result.record.id: result.record.body for result in (await store.search(key, query, NOW)).results}
            return {name: body for name, body in bodies.items() if isinstance(body, Unified)}

        await store.search(key, query, NOW)
        await found()
        assert not (await found() and read)
        later = NOW + timedelta(hours=1)
        await store.touch(key, ["r1"], later)
        await store.save(key, SPACE, [Record("r5", Unified("text 5"), vector)], NOW)
        await store.save(key, SPACE, [Record("r2", Unified("new"), vector)], NOW)
        await store.delete(key, ["r4"], None, NOW)
        bodies = await found()
        assert sorted(read) == ["r1", "r2", "r5"]
        assert sorted(bodies) == ["r0", "r1", "r2", "r3", "r5"]
        assert (bodies["r1"].last_accessed, bodies["r2"].content) == (later, "new")
        # What another process touched is not known here.
        await other.touch(key, ["r0"], later)
        await store.touch(key, ["r3"], later)
        bodies = await found()
        assert len(read) == 5
        assert {name for name, body in bodies.items() if body.last_accessed == later} == {"r0", "r1", "r3"}


async def test_a_save_in_the_middle_of_a_search_by_bytes_does_not_make_it_read_everything(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _stores(database_url) as (other, store, _):
        key, vector = KEYS[0], unit_vector((1, 0, 0))
        await store.save(key, SPACE, [Record(f"r{n}", Unified("alpha"), vector) for n in range(5)], NOW)
        saved = 0

        async def interrupted(*args: Any) -> Any:
            nonlocal saved
            saved += 1
            if saved == 1:
                await other.save(key, SPACE, [Record("late", Unified("alpha"), vector)], NOW)
            return await best_of_shortlist(*args)

        monkeypatch.setattr(search_module, "best_of_shortlist", interrupted)
        for chosen in (Filter(), Filter(conditions=(Condition("content", Comparison.EQUAL, ("alpha",)),))):
            saved = 0
            await other.delete(key, ["late"], None, NOW)
            await store.search(key, Query(vector, 60, chosen), NOW)
            assert saved
            saved = 0
            await other.delete(key, ["late"], None, NOW)
            outcome = await store.search(key, Query(vector, 10, chosen), NOW)
            assert outcome.scanned == 0
            assert {result.record.id for result in outcome.results} >= {f"r{n}" for n in range(5)}
