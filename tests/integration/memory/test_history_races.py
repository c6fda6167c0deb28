"""Former versions where several change a memory at once, and where rows are not the service's own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from services.common.db.database import Database
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.history import Keeping
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import LongTerm, MemoryKind, Record, Unified
from services.memory.domain.vectors import unit_vector
from services.memory.repositories.history_policies import HistoryPolicyRepository
from services.memory.stores.sql import history
from services.memory.stores.sql.history_reads import SqlHistory
from services.memory.stores.sql.store import SqlMemoryStore
from services.memory.tables import records, versions
from tests.integration.memory.store_model import SPACE
from tests.support.service_tables import make_service_tables

KEY = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
KEEPING = Keeping("dev|ann", 100, 30)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LONG_AGO, SECOND = NOW - timedelta(days=365), timedelta(seconds=1)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    make_service_tables("memory", database_url)
    database = Database(database_url, "memory")
    yield database
    await database.close()


@pytest.fixture
def sql_store(database: Database) -> SqlMemoryStore:
    return SqlMemoryStore(database, cache_bytes=1 << 20, cached_namespace_bytes=1 << 20)


async def _save(store: SqlMemoryStore, content: str, now: datetime, record_id: str = "r") -> None:
    record = Record(record_id, Unified(content), unit_vector([1, 0, 0]))
    await store.save(KEY, SPACE, [record], now, keeping=KEEPING)


async def _texts(store: SqlMemoryStore, record_id: str = "r") -> list[str]:
    found, _ = await store.history.versions(KEY, record_id, EVERYTHING, LONG_AGO, None, 100)
    return [version.record.text for version in found]


class _Interrupted(SqlHistory):
    """Others change the memory once its versions are cleared, and its records are not yet."""

    def __init__(self, database: Database, others: Callable[[], Awaitable[None]]) -> None:
        super().__init__(database)
        self._others = others

    async def clear(self, key: NamespaceKey) -> None:
        await super().clear(key)
        await self._others()


async def test_clearing_takes_along_what_others_make_versions_meanwhile(
    database: Database, sql_store: SqlMemoryStore
) -> None:
    for content, record_id in (("one", "r"), ("two", "r"), ("three", "s")):
        await _save(sql_store, content, NOW, record_id)

    async def others() -> None:
        assert await _texts(sql_store) == []
        await sql_store.delete(KEY, ["r"], EVERYTHING, NOW + SECOND, keeping=KEEPING)
        await _save(sql_store, "four", NOW + SECOND, "s")
        assert (await _texts(sql_store), await _texts(sql_store, "s")) == (["two"], ["three"])

    sql_store.history = _Interrupted(database, others)
    assert await sql_store.clear(KEY) == 1
    assert (await _texts(sql_store), await _texts(sql_store, "s")) == ([], [])
    assert await sql_store.space(KEY) is None


async def test_a_save_that_waited_begins_when_what_it_replaces_ends(sql_store: SqlMemoryStore) -> None:
    await _save(sql_store, "one", NOW)
    await _save(sql_store, "two", NOW + 5 * SECOND)
    # It had the time before it had to wait.
    await _save(sql_store, "three", NOW + 3 * SECOND)

    async def at(seconds: int) -> str:
        moment = NOW + seconds * SECOND
        found = await sql_store.history.at(KEY, "r", EVERYTHING, LONG_AGO, moment, NOW + 9 * SECOND)
        assert found is not None
        return found.text

    assert [await at(seconds) for seconds in (0, 4, 5)] == ["one", "one", "three"]
    assert await _texts(sql_store) == ["two", "one"]


async def test_pruning_writes_where_there_is_something_to_prune(
    database: Database, sql_store: SqlMemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [NamespaceKey(group, "crew", MemoryKind.UNIFIED) for group in ("a", "b", "c", "d")]
    for key in keys:
        for content in ("one", "two", "three"):
            record = Record("r", Unified(content), unit_vector([1, 0, 0]))
            await sql_store.save(key, SPACE, [record], NOW, keeping=KEEPING)
    async with database.write() as connection:
        await HistoryPolicyRepository(connection).set("b", 300, NOW)
    writes, write = 0, database.write

    def counted() -> Any:
        nonlocal writes
        writes += 1
        return write()

    monkeypatch.setattr(database, "write", counted)
    assert await sql_store.history.prune(NOW - SECOND, None) == 0
    assert await sql_store.history.prune(NOW - SECOND, "a") == 0
    assert writes == 0
    assert await sql_store.history.prune(NOW, "a") == 2
    assert await sql_store.history.prune(NOW, None) == 4
    assert writes == 3
    left = [await sql_store.history.versions(key, "r", EVERYTHING, LONG_AGO, None, 9) for key in keys]
    assert [len(found) for found, _ in left] == [0, 2, 0, 0]


async def test_a_group_keeps_so_many_bytes_of_versions_and_the_newest_ones(sql_store: SqlMemoryStore) -> None:
    def key(group: str, kind: MemoryKind) -> NamespaceKey:
        return NamespaceKey(group, "crew", kind)

    unified, lasting = (key("a", kind) for kind in (MemoryKind.UNIFIED, MemoryKind.LONG_TERM))
    later = [NOW + second * SECOND for second in range(8)]
    places = [unified, lasting, lasting, unified, unified, unified, lasting]
    for place, (where, now) in enumerate(zip(places, later, strict=False)):
        text = f"{place}" + "ä" * 10_000
        body: Any = Unified(text) if where is unified else LongTerm(text)
        for of in (where, key("b", where.kind)) if place < 4 else (where,):
            await sql_store.save(of, SPACE, [Record("r", body, unit_vector([1, 0, 0]))], now, keeping=KEEPING)

    async def left(*of: NamespaceKey) -> list[str]:
        found = [await sql_store.history.versions(one, "r", EVERYTHING, LONG_AGO, None, 9) for one in of]
        return [version.record.text[0] for some, _ in found for version in some]

    assert await left(unified, lasting) == ["4", "3", "0", "2", "1"]
    assert await sql_store.history.shrink(10**6, None) == 0
    # Each takes 20 kB, and a little beside.
    assert await sql_store.history.shrink(70_000, NOW + 60 * SECOND) == 0
    assert await sql_store.history.shrink(70_000, later[4]) == 2
    assert await left(unified, lasting) == ["4", "3", "2"]
    assert await left(key("b", MemoryKind.UNIFIED), key("b", MemoryKind.LONG_TERM)) == ["0", "1"]
    assert await sql_store.history.shrink(30_000, None) == 3
    assert await left(unified, lasting) == ["2"]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_person_is_forgotten_in_portions(
    database: Database, sql_store: SqlMemoryStore, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    monkeypatch.setattr(history, "TEXTS_IN_CHUNK", 2)
    monkeypatch.setattr(history, "ROWS_IN_CHUNK", 2)
    by_ben = Keeping("dev|ben", 100, 30)
    for number in range(12):
        subjects = ("dev|ann",) if number % 4 else ("dev|annette", "dev|ben")
        record = Record("r", Unified(f"{number}"), unit_vector([1, 0, 0]), subjects=subjects)
        await sql_store.save(KEY, SPACE, [record], NOW, keeping=KEEPING if number % 3 else by_ben)
    before = await _texts(sql_store)
    assert await sql_store.history.forget(KEY, "dev|ann", dry_run=dry_run) == 8
    found, _ = await sql_store.history.versions(KEY, "r", EVERYTHING, LONG_AGO, None, 100)
    texts = before if dry_run else ["8", "4", "0"]
    assert [version.record.text for version in found] == texts
    # Each was ended by the save after it.
    names = {False: "dev|ann" if dry_run else "", True: "dev|ben"}
    assert [version.changed_by for version in found] == [names[(int(text) + 1) % 3 == 0] for text in texts]


async def test_times_that_no_calendar_has_take_no_other_version_along(
    database: Database, sql_store: SqlMemoryStore
) -> None:
    for content in ("one", "two", "three", "four"):
        await _save(sql_store, content, NOW)
    absurd = 1 << 62
    table, rows = versions[MemoryKind.UNIFIED], records[MemoryKind.UNIFIED]
    async with database.write() as connection:
        await connection.execute(update(table).where(table.c.content == "two").values(ended_us=absurd))
        await connection.execute(update(table).where(table.c.content == "three").values(ended_by="SHREDDED"))
        await connection.execute(update(rows).values(created_us=absurd))
    assert await _texts(sql_store) == ["one"]
    saved = await sql_store.save(
        KEY, SPACE, [Record("r", Unified("five"), unit_vector([1, 0, 0]), expected_revision=4)], NOW, keeping=KEEPING
    )
    assert (saved[0].revision, await _texts(sql_store)) == (5, ["four", "one"])
