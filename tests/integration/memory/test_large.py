"""A namespace of a million records: what stays bounded, and what becomes slow."""

import gc
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest

from services.common.db.database import Database
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.listings import ListPosition
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.searches import Query
from services.memory.domain.vectors import EmbeddingSpace, unit_vector
from services.memory.stores.sql.store import SqlMemoryStore
from tests.support.service_tables import make_service_tables

COUNT, DIMENSION, BATCH = 1_000_000, 64, 5000
KEY = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
MEBIBYTE = 2**20


@pytest.mark.large
@pytest.mark.timeout(3000)
async def test_a_million_records_are_searched_listed_and_cleared_in_bounded_memory(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    make_service_tables("memory", url)
    database = Database(url, "memory")
    store = SqlMemoryStore(database, cache_bytes=64 * MEBIBYTE, cached_namespace_bytes=64 * MEBIBYTE)
    random = np.random.default_rng(1)
    needle = unit_vector(random.normal(size=DIMENSION))
    started = time.perf_counter()
    for start in range(0, COUNT, BATCH):
        vectors = random.normal(size=(BATCH, DIMENSION)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        records = [
            Record(
                f"r{start + n}",
                Unified(f"text {start + n}", scope=f"/{n % 10}", categories=(f"c{n % 100}",)),
                vector,
                created_at=NOW + timedelta(seconds=start + n),
            )
            for n, vector in enumerate(vectors)
        ]
        if start == COUNT // 2:
            records[17].embedding = needle
        await store.save(KEY, EmbeddingSpace("m", DIMENSION), records, NOW)
    print(f"\nsaved {COUNT / (time.perf_counter() - started):,.0f} rows/s")
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss

    async def timed(name: str, work: object) -> None:
        began = time.perf_counter()
        await work  # type: ignore[misc]
        grown = (process.memory_info().rss - before) / MEBIBYTE
        print(f"{name}: {time.perf_counter() - began:.2f} s, resident +{grown:.0f} MiB")
        assert grown < 256

    async def search(chosen: Filter, expected: str) -> None:
        found = (await store.search(KEY, Query(needle, 5, chosen), NOW)).results
        assert found[0].record.id == expected

    async def pages() -> None:
        after = None
        for page_number in range(5):
            page = await store.page(KEY, EVERYTHING, 1000, after, NOW, embeddings=False)
            assert page.records[0].id == f"r{COUNT - 1 - 1000 * page_number}"
            last = page.records[-1]
            assert last.created_at is not None
            after = ListPosition(microseconds(last.created_at), KEY.stored_id(last.id))

    needle_id = f"r{COUNT // 2 + 17}"
    await timed("search", search(EVERYTHING, needle_id))
    await timed("search in a scope", search(Filter(scope_prefix="/7"), needle_id))
    await timed("search by category", search(Filter(categories=frozenset({"c17"})), needle_id))
    await timed("five pages of 1000", pages())
    assert (await store.count(KEY, Filter(scope_prefix="/7"), NOW)).count == COUNT // 10
    await timed("delete by category", store.delete(KEY, None, Filter(categories=frozenset({"c18"})), NOW))
    assert (await store.count(KEY, EVERYTHING, NOW)).count == COUNT - COUNT // 100
    await timed("clear", store.clear(KEY))
    assert (await store.count(KEY, EVERYTHING, NOW)).count == 0
    await database.close()
