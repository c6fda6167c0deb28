"""Looking for near-copies in a database that others write to at the same time."""

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.db.database import Database
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.saves import SavedRecord, SaveOutcome
from services.memory.domain.vectors import unit_vector
from services.memory.stores.sql import store as store_module
from services.memory.stores.sql.recent_masks import RecentMasks
from services.memory.stores.sql.store import SqlMemoryStore
from tests.integration.memory.store_model import SPACE
from tests.support.service_tables import make_service_tables

KEY = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def _record(degrees: float, scope: str = "/a") -> Record:
    vector = unit_vector([math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0])
    return Record("", Unified(f"{scope} {degrees}", scope=scope), vector)


async def _save(store: SqlMemoryStore, *records: Record, near_copies: float = 0.0) -> list[SavedRecord]:
    return list(await store.save(KEY, SPACE, records, NOW, near_copies=near_copies))


async def test_what_others_save_between_search_and_save_is_compared(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_service_tables("memory", database_url)
    database = Database(database_url, "memory")
    searches = 0

    class Interrupted(SqlMemoryStore):
        others: Callable[[], Awaitable[Any]]

        async def _candidates(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal searches
            searches += 1
            found = await super()._candidates(*args, **kwargs)
            await self.others()
            return found

    monkeypatch.setattr(store_module, "MOST_MEANWHILE", 3)
    try:
        store = Interrupted(database, cache_bytes=1 << 20, cached_namespace_bytes=1 << 20)
        plain = SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
        await _save(plain, _record(90))
        told: list[SavedRecord] = []

        async def few_of_many() -> None:
            # Those of another scope are none of its near-copies.
            told[:] = await _save(plain, _record(1), *(_record(number, "/b") for number in range(20)))

        store.others = few_of_many
        [saved] = await _save(store, _record(2), near_copies=0.95)
        assert (saved.outcome, saved.id, searches) == (SaveOutcome.MERGED, told[0].id, 1)

        async def many_at_first() -> None:
            if searches == 2:
                told[:] = await _save(plain, *(_record(200 + number) for number in range(5)))

        store.others = many_at_first
        [saved] = await _save(store, _record(202.1), near_copies=0.999)
        assert (saved.outcome, saved.id, searches) == (SaveOutcome.MERGED, told[2].id, 3)

        async def always_many() -> None:
            await _save(plain, *(_record(100 + searches + number / 10) for number in range(5)))

        store.others = always_many
        [saved] = await _save(store, _record(300), near_copies=0.999)
        assert (saved.outcome, searches) == (SaveOutcome.CREATED, 6)
    finally:
        await database.close()


async def test_records_of_one_scope_are_looked_for_together(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_service_tables("memory", database_url)
    database = Database(database_url, "memory")
    masks, put = 0, RecentMasks.put

    def counted(*args: Any) -> None:
        nonlocal masks
        masks += 1
        put(*args)

    monkeypatch.setattr(RecentMasks, "put", counted)
    try:
        store = SqlMemoryStore(database, cache_bytes=1 << 20, cached_namespace_bytes=1 << 20)
        first = await _save(store, *(_record(20 * number, scope) for number in range(5) for scope in ("/a", "/b")))
        newer = (_record(20 * number + 1, scope) for number in range(5) for scope in ("/a", "/b"))
        merged = await _save(store, *newer, near_copies=0.99)
        assert [saved.id for saved in merged] == [saved.id for saved in first]
        assert {saved.outcome for saved in merged} == {SaveOutcome.MERGED}
        assert masks == 2
    finally:
        await database.close()
