"""The store in a database by itself: it agrees with a plain model, and connections are few and everybody's own."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.errors import FailedPrecondition, Unavailable
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.history import Keeping
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import Document, MemoryKind, Record, Unified
from services.memory.domain.searches import Query, Ranking, SearchPosition
from services.memory.domain.vectors import unit_vector
from services.memory.repositories.namespaces import NamespaceRepository
from services.memory.stores.pgvector import store as pgvector_store
from services.memory.stores.pgvector.connector import required
from services.memory.stores.pgvector.database import BackendDatabase
from services.memory.stores.pgvector.dialect import decode_vector, encode_vector
from services.memory.stores.pgvector.failures import explained
from services.memory.stores.pgvector.indexes import IndexKeeper, build_index, large_namespaces
from services.memory.stores.pgvector.search import PgvectorSearch, Scan
from services.memory.stores.pgvector.store import PgvectorMemoryStore
from services.memory.stores.sql import history_pruning, history_reads, statements
from services.memory.stores.sweep_turns import SweepTurns
from services.memory.tables import versions
from tests.integration.memory.pgvector_support import (
    FixedLogins,
    backend_of,
    config_of,
    connector_here,
    pools_of,
    store_in,
)
from tests.integration.memory.store_model import FILTERS, KEYS, NOW, OPERATIONS, SPACE, VECTORS, Model, apply, check
from tests.support.waiting import until

MANY = 10**9


@given(OPERATIONS, FILTERS, VECTORS)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_no_operation_of_one_namespace_is_seen_in_another_by_either_search(
    pgvector_url: str, operations: list[tuple[Any, ...]], chosen: Filter, vector: Any
) -> None:
    async def scenario() -> None:
        async with pools_of(pgvector_url) as pools:
            async with pools.connection(backend_of(pgvector_url), "AUTOCOMMIT") as connection:
                await connection.execute(text("TRUNCATE namespaces CASCADE"))
            # Two backends of one database: all rows compared, and candidates of an index first.
            stores = [
                store_in(pools, backend_of(pgvector_url, backend_id=name), exact_rows=rows)
                for name, rows in (("b1", MANY), ("b2", 0))
            ]
            model: Model = {key: {} for key in KEYS}
            for operation in operations:
                await apply(stores, model, operation)
            await check(stores, model, EVERYTHING, vector)
            await check(stores, model, chosen, vector)

    asyncio.run(scenario())


async def test_ranks_blend_as_in_the_default_store_and_pages_go_on_where_the_last_one_ended(pgvector_url: str) -> None:
    rng = np.random.default_rng(3)
    ages, importance = rng.integers(0, 900, 40), rng.random(40)
    records = [
        Record(
            f"r{place}",
            Unified(f"t{place}", importance=float(np.float32(importance[place]))),
            unit_vector(rng.normal(size=3)),
            created_at=NOW - ages[place] * np.timedelta64(1, "D").astype("timedelta64[s]").item(),
        )
        for place in range(40)
    ]
    ranking = Ranking(0.5, 0.3, 0.2, 0.5)
    question = unit_vector([1, 2, 3])
    similarity = np.array([float(record.embedding @ question) for record in records if record.embedding is not None])
    expected = ranking.blend(similarity, ages.astype(float), importance.astype(np.float32).astype(float))
    async with pools_of(pgvector_url) as pools:
        for name, rows in (("b1", MANY), ("b2", 0)):
            store = store_in(pools, backend_of(pgvector_url, backend_id=name), exact_rows=rows)
            await store.save(KEYS[0], SPACE, records, NOW)
            whole = (await store.search(KEYS[0], Query(question, 40, ranking=ranking), NOW)).results
            scores = {found.record.id: found.score for found in whole}
            assert [scores[f"r{place}"] for place in range(40)] == pytest.approx(expected.tolist(), abs=1e-6)
            pages: list[str] = []
            after = None
            while len(pages) < 40:
                found = (await store.search(KEYS[0], Query(question, 7, ranking=ranking, after=after), NOW)).results
                pages += [result.record.id for result in found]
                last = found[-1]
                after = SearchPosition(last.score, KEYS[0].stored_id(last.record.id), len(pages))
            assert pages == [found.record.id for found in whole]
            best = (await store.search(KEYS[0], Query(question, 40, min_score=0.5), NOW)).results
            assert len(best) == (similarity >= 0.5).sum()


async def test_candidates_come_from_the_index_of_their_namespace(pgvector_url: str) -> None:
    rng = np.random.default_rng(5)
    backend = backend_of(pgvector_url)
    async with pools_of(pgvector_url) as pools:
        store = store_in(pools, backend, exact_rows=MANY)
        for key in KEYS[:2]:
            records = [
                Record(f"r{place}", Unified(f"t{place}"), unit_vector(rng.normal(size=3)), created_at=NOW)
                for place in range(2000)
            ]
            await store.save(key, SPACE, records, NOW)
        connection, extension = await pools.connector.open(
            config_of(pgvector_url), await FixedLogins().find(config_of(pgvector_url))
        )
        [first, _] = indexes = await large_namespaces(connection, "sales", 1999)
        assert await large_namespaces(connection, "legal", 0) == []
        assert await large_namespaces(connection, "sales", 2000) == []
        for expected in (True, False):
            built = [
                await build_index(connection, index, required(extension, config_of(pgvector_url)).version)
                for index in indexes
            ]
            assert built == [expected] * 2
        await connection.execute("ANALYZE unified_records")
        await connection.close()
        [key] = [key for key in KEYS if key.id == first.namespace_id]
        question = Query(unit_vector([1, 2, 3]), 10)
        async with BackendDatabase(backend, pools).read() as reading:
            namespace = await NamespaceRepository(reading).get(key)
            assert namespace is not None
            scan = Scan(reading, namespace, question, microseconds(NOW))
            candidates = await scan.by_index()
            scans = text("SELECT pg_stat_get_xact_numscans(to_regclass(:name))")
            used = [int(await reading.scalar(scans, {"name": index.name}) or 0) for index in indexes]
            exact = await scan.exactly()
        assert used == [1, 0]
        assert candidates is not None
        assert len({row[0] for row in candidates} & {row[0] for row in exact}) >= 9


async def test_connections_are_few_close_when_idle_and_are_nobody_elses(pgvector_url: str) -> None:
    now = [0.0]
    logins = FixedLogins("of ann", "of ben", "of ann", "of cem")
    first, second = backend_of(pgvector_url), backend_of(pgvector_url, "legal", "b2")
    async with pools_of(pgvector_url, logins, wait_seconds=0.05, clock=lambda: now[0]) as pools:

        async def process(backend: Any) -> int:
            async with pools.connection(backend, "AUTOCOMMIT") as connection:
                return int(await connection.scalar(text("SELECT pg_backend_pid()")))

        ann, ben = await process(first), await process(first)
        assert ann != ben
        assert await process(first) == ann
        # A third database, or login, takes the place of the one used longest ago.
        assert await process(second) not in (ann, ben)
        assert len(pools) == 2
        async with pools.connection(second), pools.connection(second):
            with pytest.raises(Unavailable) as busy:
                await process(second)
            assert busy.value.retry_after
            now[0] = 1000.0
            await pools.close_idle()
            assert len(pools) == 1
        await pools.close_idle()
        assert len(pools) == 1
        now[0] = 2000.0
        await pools.close_idle()
        assert len(pools) == 0


async def test_a_group_has_its_share_of_connected_databases(pgvector_url: str) -> None:
    own = [backend_of(pgvector_url, backend_id=f"b{place}") for place in range(3)]
    async with pools_of(pgvector_url, databases=3) as pools, pools.connection(own[0]):
        async with pools.connection(own[1]):
            with pytest.raises(Unavailable) as busy:
                async with pools.connection(own[2]):
                    pass
            assert "your group" in busy.value.message
            async with pools.connection(backend_of(pgvector_url, "legal")):
                assert len(pools) == 3
        async with pools.connection(own[2]):
            assert len(pools) == 3


async def test_indexes_are_built_for_eight_groups_at_once_and_one_at_a_time_for_each(pgvector_url: str) -> None:
    asked: list[str] = []
    may_end = asyncio.Event()

    class Waiting(FixedLogins):
        async def find(self, config: Any) -> Any:
            asked.append(config.user)
            await may_end.wait()
            raise Unavailable("no login")

    async with pools_of(pgvector_url, Waiting()) as pools:
        keeper = IndexKeeper(pools, build_seconds=60)

        def need(group: int, crew: str) -> None:
            user = f"{group} {crew}"
            backend = backend_of(pgvector_url, str(group), f"b{group}")
            backend = replace(backend, pgvector=config_of(pgvector_url, user=user))
            keeper.need(backend, NamespaceInfo(NamespaceKey(str(group), crew, MemoryKind.UNIFIED), SPACE, 9, 1))

        for crew in ("one", "two"):
            for group in range(9):
                need(group, crew)
        await until(lambda: len(asked) == 8)
        assert asked == [f"{group} one" for group in range(8)]
        may_end.set()

        def are_asked() -> bool:
            for group, crew in ((8, "one"), (0, "one"), (0, "two")):
                need(group, crew)
            return len(asked) == 10

        await until(are_asked)
        assert sorted(asked[8:]) == ["0 two", "8 one"]
        await keeper.close()


async def test_a_connection_that_the_server_ended_within_a_transaction_fails_it_alone(pgvector_url: str) -> None:
    backend = backend_of(pgvector_url)
    async with pools_of(pgvector_url) as pools:
        store = store_in(pools, backend, exact_rows=MANY)
        await store.save(KEYS[0], SPACE, [Record("r1", Unified("a"), unit_vector((1, 0, 0)))], NOW)
        with pytest.raises(Unavailable) as lost:
            async with pools.connection(backend) as connection, connection.begin():
                ended = await connection.scalar(text("SELECT pg_backend_pid()"))
                administrator = await asyncpg.connect(pgvector_url)
                await administrator.execute("SELECT pg_terminate_backend($1)", ended)
                await administrator.close()
                await connection.execute(text("SELECT 1"))
        assert lost.value.retry_after
        assert [record.id for record in await store.get(KEYS[0], ["r1"], NOW, embeddings=True)] == ["r1"]


async def test_only_failures_of_its_own_database_are_explained_as_such(pgvector_url: str) -> None:
    backend = backend_of(pgvector_url)
    own = IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE constraint failed"))
    async with pools_of(pgvector_url) as pools:
        for failure in (own, TimeoutError(), OSError()):
            with pytest.raises(type(failure)) as raised:
                async with pools.connection(backend):
                    raise failure
            assert raised.value is failure
        for code, reason in (("28P01", "UPSTREAM_CREDENTIAL_REJECTED"), ("22012", "STORE_FAILED")):
            # Behind a pooler it is a statement that a wrong password fails.
            failing = text(f"DO $$ BEGIN RAISE 'marked words' USING ERRCODE = '{code}'; END $$")
            with pytest.raises(FailedPrecondition) as refused:
                async with pools.connection(backend) as connection, connection.begin():
                    await connection.execute(failing)
            assert refused.value.reason == reason
            assert "marked words" not in refused.value.message


async def test_a_pool_that_is_used_is_not_taken_out_while_others_are_closed(
    pgvector_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    first, second = backend_of(pgvector_url), backend_of(pgvector_url, "legal", "b2")
    dispose = AsyncEngine.dispose
    async with pools_of(pgvector_url, clock=lambda: now[0]) as pools, contextlib.AsyncExitStack() as used:
        for backend in (first, second):
            async with pools.connection(backend):
                pass
        meanwhile: list[Callable[[], Awaitable[Any]]] = []

        async def close(engine: AsyncEngine) -> None:
            if meanwhile:
                await meanwhile.pop()()
            await dispose(engine)

        monkeypatch.setattr(AsyncEngine, "dispose", close)
        now[0] = 1000.0
        meanwhile.append(lambda: used.enter_async_context(pools.connection(second)))
        await pools.close_idle()
        assert len(pools) == 1
        # One that is new is in use before those are closed that made room for it.
        async with pools.connection(first):
            pass
        now[0] = 2000.0

        async def close_later() -> None:
            now[0] = 3000.0
            await pools.close_idle()

        meanwhile.append(close_later)
        async with pools.connection(backend_of(pgvector_url, backend_id="b3")):
            assert not meanwhile
            assert len(pools) == 2


async def test_a_row_of_something_else_hinders_no_save_of_many(pgvector_url: str) -> None:
    """Whatever has the primary key of one of the records, it stays, and the others are stored."""
    many = [Record(f"many-{number}", Unified(f"text {number}"), unit_vector((1, 0, 0))) for number in range(60)]
    async with pools_of(pgvector_url) as pools:
        backend = backend_of(pgvector_url)
        store = store_in(pools, backend, exact_rows=MANY)
        await store.save(KEYS[0], SPACE, many[:1], NOW)
        async with pools.connection(backend) as connection, connection.begin():
            taken = {"id": KEYS[0].stored_id("many-0")}
            await connection.execute(text("UPDATE unified_records SET group_id = 'else' WHERE id = :id"), taken)
        for revision in (1, 2):
            saved = await store.save(KEYS[0], SPACE, many, NOW)
            assert [record.revision for record in saved[1:]] == [revision] * 59
        found = await store.get(KEYS[0], [record.id for record in many], NOW, embeddings=True)
        assert {record.id for record in found} == {record.id for record in many[1:]}
        async with pools.connection(backend) as connection, connection.begin():
            await connection.execute(text("DELETE FROM unified_records WHERE id = :id"), taken)


async def test_a_search_of_a_small_namespace_is_two_exchanges(pgvector_url: str) -> None:
    async with pools_of(pgvector_url) as pools:
        store = store_in(pools, backend_of(pgvector_url), exact_rows=MANY)
        new = [Record(f"r{number}", Unified("a"), unit_vector((1, number, 0))) for number in range(3)]
        await store.save(KEYS[0], SPACE, new, NOW)
        isolation: list[str] = []

        def note(connection: Connection, *_rest: object) -> None:
            isolation.append(connection.get_execution_options()["isolation_level"])

        event.listen(Engine, "before_cursor_execute", note)
        try:
            outcome = await store.search(KEYS[0], Query(unit_vector((1, 0, 0)), 2), NOW)
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        assert [found.record.id for found in outcome.results] == ["r0", "r1"]
        # Without BEGIN and COMMIT.
        assert isolation == ["AUTOCOMMIT"] * 2


async def test_the_parts_of_a_document_are_gone_before_the_document_is(pgvector_url: str) -> None:
    key = NamespaceKey("sales", "", MemoryKind.DOCUMENT)
    part = Record("p1", Document("a", parent_document_id="d1"), unit_vector((1, 0, 0)))
    async with pools_of(pgvector_url) as pools:
        store = store_in(pools, backend_of(pgvector_url), exact_rows=MANY)
        await store.save(key, SPACE, [part], NOW)
        there: list[Any] = []

        async def switch(connection: AsyncConnection | None) -> None:
            there.extend([connection, *await store.get(key, ["p1"], NOW, embeddings=False)])

        assert await store.remove_document(key, "d1", 0, (), NOW, switch) == 1
        assert there == [None]


async def test_a_save_removes_a_portion_of_what_has_expired_and_stands_when_it_cannot(
    pgvector_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (statements, pgvector_store):
        monkeypatch.setattr(module, "ROWS_IN_CHUNK", 2)
    backend, keeping = backend_of(pgvector_url), Keeping("dev:ann", 2)
    async with pools_of(pgvector_url) as pools:
        database = BackendDatabase(backend, pools)
        search = PgvectorSearch(database, lambda _namespace: None, exact_rows=MANY)
        store = PgvectorMemoryStore(database, search, SweepTurns(3600))

        async def save(*ids: str, hours: int) -> int:
            ends = NOW + timedelta(hours=hours)
            new = [Record(name, Unified(name), unit_vector((1, 0, 0)), expires_at=ends) for name in ids]
            saved = await store.save(KEYS[0], SPACE, new, NOW, keeping=keeping)
            assert len(saved) == len(ids)
            async with database.read() as connection:
                return int(await connection.scalar(text("SELECT count(*) FROM unified_records")) or 0)

        assert await save("e1", "e2", "e3", hours=-1) == 1
        # The rest goes with the next save, and what comes then at the next turn.
        assert await save("r1", hours=1) == 1
        assert await save("e4", hours=-1) == 2
        async with database.write() as connection:
            await connection.execute(text(f"DROP TABLE {versions[MemoryKind.LONG_TERM].name}"))
        store = PgvectorMemoryStore(database, search, SweepTurns(3600))
        assert await save("r2", hours=1) == 2


async def test_a_save_removes_a_portion_of_the_versions_that_are_too_many_bytes(
    pgvector_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (statements, pgvector_store, history_pruning, history_reads):
        monkeypatch.setattr(module, "ROWS_IN_CHUNK", 2)
    backend = backend_of(pgvector_url)
    async with pools_of(pgvector_url) as pools:
        database = BackendDatabase(backend, pools)
        search = PgvectorSearch(database, lambda _namespace: None, exact_rows=MANY)

        def store() -> PgvectorMemoryStore:
            return PgvectorMemoryStore(database, search, SweepTurns(3600))

        async def save(store: PgvectorMemoryStore, name: str, contents: str, minute: int, most: int | None) -> int:
            keeping = Keeping("dev:ann", 50, days=30, most_bytes=most)
            new = Record(name, Unified(contents), unit_vector((1, 0, 0)))
            await store.save(KEYS[0], SPACE, [new], NOW + timedelta(minutes=minute), keeping=keeping)
            async with database.read() as connection:
                table = versions[MemoryKind.UNIFIED].name
                return int(await connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)

        roomy = store()
        assert [await save(roomy, "r1", f"text {minute}", minute, None) for minute in range(6)] == [0, 1, 2, 3, 4, 5]
        # Of five, two at a time; the turn is given back as long as there may be more.
        tight = store()
        assert [await save(tight, f"r{minute}", f"more {minute}", minute, 1) for minute in range(6, 10)] == [3, 1, 0, 0]


async def test_rows_of_namespaces_that_something_else_has_written_need_no_index(pgvector_url: str) -> None:
    connection = await asyncpg.connect(pgvector_url)
    try:
        await connection.execute("SET search_path = coxswain_memory, public")
        for place, (namespace_id, kind, dimension) in enumerate(
            [("a" * 64, 1, 3), ("b" * 64, 99, 3), ("c'; DROP", 1, 3), ("d" * 64, 1, -1)]
        ):
            await connection.execute(
                "INSERT INTO namespaces (id, group_id, crew_id, kind, embedding_model, embedding_dimension, version, "
                "removal_version, record_count, created_at) VALUES ($1, 'sales', $2, $3, 'm', $4, 1, 1, 10, now())",
                namespace_id,
                str(place),
                kind,
                dimension,
            )
        indexes = await large_namespaces(connection, "sales", 1)
    finally:
        await connection.close()
    assert [index.namespace_id for index in indexes] == ["a" * 64]


async def test_namespaces_of_kinds_there_are_not_hide_no_other_ones(pgvector_url: str) -> None:
    async with pools_of(pgvector_url) as pools:
        store = store_in(pools, backend_of(pgvector_url), exact_rows=MANY)
        for key in KEYS[:2]:
            await store.save(key, SPACE, [Record("r1", Unified("a"), unit_vector((1, 0, 0)))], NOW)
        database = BackendDatabase(backend_of(pgvector_url), pools)
        async with database.write() as connection:
            await connection.execute(text("UPDATE namespaces SET kind = 99 WHERE id = :id"), {"id": KEYS[0].id})
        async with database.read() as connection:
            repository = NamespaceRepository(connection)
            shown = await repository.page("sales", 10, None)
            with pytest.raises(FailedPrecondition) as refused:
                await repository.get(KEYS[0])
        assert [info.key for info in shown] == [KEYS[1]]
        assert refused.value.reason == "STORE_FAILED"


@pytest.mark.parametrize("host", ["db..example.com", "a" * 64])
async def test_names_that_cannot_be_looked_up_are_those_of_servers_that_do_not_answer(host: str) -> None:
    config = config_of("postgresql:///memories?host=/none", host=host)
    with pytest.raises(Unavailable), explained(config, "ann"):
        await connector_here().open(config, await FixedLogins().find(config))


@pytest.mark.parametrize("dimension", [1, 3, 4096])
def test_vectors_come_back_as_they_went(dimension: int) -> None:
    vector = np.random.default_rng(dimension).normal(size=dimension).astype("<f4").tobytes()
    assert decode_vector(encode_vector(vector)) == vector


@pytest.mark.parametrize("data", [b"", b"\0\3", b"\0\3\0\0", b"\0\1\0\0abc", b"\0\1\0\0abcdefgh"])
def test_what_is_no_vector_is_no_bytes(data: bytes) -> None:
    assert decode_vector(data) == b""
