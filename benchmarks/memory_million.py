"""How fast one large namespace is searched, and in how much memory: 1,000,000 x 384 in SQLite.

The default store in this process, with as much memory for vectors as is asked for. Searches are compared with ones
that read every row. Saving takes most of the time; --database keeps what was saved for the next run, which goes on
where one that was interrupted has stopped.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil

from benchmarks.memory_stores.data import K, Matrix, text_of
from services.common.db.database import Database
from services.common.db.migrate import upgrade_database
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.searches import Query
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.stores.sql.store import SqlMemoryStore

_KEY = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
_BATCH = 5000
_MIB = 2**20


class _Points:
    """Unit vectors around a few centres."""

    def __init__(self, dimension: int, seed: int) -> None:
        self._centres = np.random.default_rng(1).normal(size=(20, dimension)).astype(np.float32)
        self._random = np.random.default_rng(seed)

    def next(self, count: int) -> Matrix:
        """Return some more, as rows."""
        centres = self._centres[self._random.integers(0, len(self._centres), count)]
        points = centres + 0.7 * self._random.normal(size=centres.shape).astype(np.float32)
        result: Matrix = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
        return result


async def _save(store: SqlMemoryStore, rows: int, dimension: int, there: int) -> float:
    """Save what an earlier run has not, a batch in each transaction, and return rows a second."""
    points, started = _Points(dimension, 2), time.perf_counter()
    for start in range(0, rows, _BATCH):
        # Drawn in any case: those after it are the same then.
        vectors = points.next(min(_BATCH, rows - start))
        if start + len(vectors) <= there:
            continue
        new = [Record(f"r{start + n}", Unified(text_of(0, start + n)), vector) for n, vector in enumerate(vectors)]
        await store.save(_KEY, EmbeddingSpace("benchmark", dimension), new, datetime.now(UTC))
    return (rows - there) / (time.perf_counter() - started)


async def _measure(path: Path, rows: int, dimension: int, mebibytes: int, searches: int) -> None:
    url = f"sqlite:///{path}"
    await upgrade_database("memory", url)
    database = Database(url, "memory")
    every_row = SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
    there = (await every_row.count(_KEY, EVERYTHING, datetime.now(UTC))).count
    if there > rows:
        raise SystemExit(f"{path} has {there:,} rows: ask for as many, or name another file")
    if there < rows:
        print(f"saved: {await _save(every_row, rows, dimension, there):,.0f} rows/s after {there:,}", flush=True)
    bound = mebibytes * _MIB
    store = SqlMemoryStore(database, cache_bytes=bound, cached_namespace_bytes=bound)
    process, points = psutil.Process(), _Points(dimension, 3)
    before = process.memory_info().rss
    elapsed, cpu, same = [], [], 0
    for number in range(searches + 1):
        query = Query(points.next(1)[0], K)
        started, spent = time.perf_counter(), time.process_time()
        outcome = await store.search(_KEY, query, datetime.now(UTC))
        elapsed.append((time.perf_counter() - started) * 1e3)
        cpu.append((time.process_time() - spent) * 1e3)
        if not number:
            print(f"first search: {elapsed[0]:,.0f} ms, of CPU {cpu[0]:,.0f}; rows read: {outcome.scanned}", flush=True)
    grown = (process.memory_info().rss - before) / _MIB
    print(f"searches: p50 {statistics.median(elapsed[1:]):.1f} ms, of CPU {statistics.median(cpu[1:]):.1f}")
    print(f"resident: +{grown:,.0f} MiB; the vectors alone have {rows * dimension * 4 / _MIB:,.0f}", flush=True)
    compared = 2
    for query in [Query(vector, K) for vector in points.next(compared)]:
        found, expected = [
            [result.record.id for result in (await each.search(_KEY, query, datetime.now(UTC))).results]
            for each in (store, every_row)
        ]
        same += len(set(found) & set(expected))
    print(f"recall beside a search that reads every row: {same / (compared * K):.3f}")
    await database.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--mebibytes", type=int, default=512, help="memory for vectors (default: 512)")
    parser.add_argument("--searches", type=int, default=30)
    parser.add_argument("--database", type=Path, help="file to keep what is saved in (default: none)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = arguments.database or Path(directory) / "memory.db"
        asyncio.run(_measure(path, arguments.rows, arguments.dimension, arguments.mebibytes, arguments.searches))


if __name__ == "__main__":
    main()
