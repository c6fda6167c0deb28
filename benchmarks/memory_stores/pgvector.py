"""PostgreSQL with pgvector, as both come configured."""

import contextlib
import os
import struct
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import asyncpg
import numpy as np
import psutil

from benchmarks.memory_stores.data import NAMESPACES, K, Matrix, text_of
from benchmarks.memory_stores.probes import CALLERS, Search

_NEAREST = """
SELECT id, content, embedding <=> $2 AS distance FROM {table} WHERE namespace = $1 ORDER BY embedding <=> $2 LIMIT $3
"""
EXACT, HNSW = "memories", "indexed_memories"


@contextlib.contextmanager
def postgres_server(directory: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run PostgreSQL; yield its URL. It ends with the block, however that is left."""
    # The library keeps its lock there, and warns where there is no such directory.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(directory))
    from pgserver.postgres_server import get_server

    data = directory / "postgres"
    postgres = get_server(data)
    try:
        yield postgres.get_uri(), psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
    finally:
        postgres.cleanup()


@contextlib.asynccontextmanager
async def connections(url: str) -> AsyncIterator[asyncpg.Pool | None]:
    """Yield connections on which vectors are NumPy arrays, in binary; None where the server has no pgvector."""
    connection = await asyncpg.connect(url)
    try:
        available = await connection.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
        if available:
            await connection.execute("CREATE EXTENSION vector")
    finally:
        await connection.close()
    if not available:
        yield None
        return
    pool = asyncpg.create_pool(url, min_size=CALLERS, max_size=CALLERS, init=_know_vectors)
    async with pool:
        yield pool


async def _know_vectors(connection: asyncpg.Connection) -> None:
    def encode(vector: Matrix) -> bytes:
        return struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes()

    def decode(data: bytes) -> Matrix:
        return np.frombuffer(data, ">f4", offset=4).astype(np.float32)

    await connection.set_type_codec("vector", schema="public", encoder=encode, decoder=decode, format="binary")


async def fill(pool: asyncpg.Pool, matrices: Sequence[Matrix], table: str = EXACT) -> float:
    """Copy everything into one table with an index on its namespace; return rows a second."""
    started = time.perf_counter()
    await pool.execute(f"CREATE TABLE {table} ({_columns(matrices[0])})")
    await pool.execute(f"CREATE INDEX ON {table} (namespace)")
    for number, matrix in enumerate(matrices):
        rows = [(f"crew{number}", f"r{n}", text_of(number, n), row) for n, row in enumerate(matrix)]
        await pool.copy_records_to_table(table, records=rows)
    return sum(len(matrix) for matrix in matrices) / (time.perf_counter() - started)


async def index(pool: asyncpg.Pool, dimension: int) -> float:
    """Copy the table into one with a part and an HNSW index for each namespace; return rows a second.

    With one index of all, a filter by namespace is applied to the nearest of all and leaves next to none.
    """
    started = time.perf_counter()
    columns = _columns(np.empty((0, dimension), dtype=np.float32))
    await pool.execute(f"CREATE TABLE {HNSW} ({columns}) PARTITION BY LIST (namespace)")
    for number in range(NAMESPACES):
        await pool.execute(f"CREATE TABLE {HNSW}_{number} PARTITION OF {HNSW} FOR VALUES IN ('crew{number}')")
    await pool.execute(f"CREATE INDEX ON {HNSW} USING hnsw (embedding vector_cosine_ops)")
    await pool.execute(f"INSERT INTO {HNSW} SELECT * FROM {EXACT}")
    await pool.execute(f"ANALYZE {HNSW}")
    rows = await pool.fetchval(f"SELECT count(*) FROM {HNSW}")
    return float(rows / (time.perf_counter() - started))


def search_in(pool: asyncpg.Pool, table: str) -> Search:
    """Return the way to search one of the tables."""
    statement = _NEAREST.format(table=table)

    async def search(number: int, query: Matrix) -> list[str]:
        return [row["id"] for row in await pool.fetch(statement, f"crew{number}", query, K)]

    return search


def _columns(matrix: Matrix) -> str:
    return f"namespace text, id text, content text, embedding vector({matrix.shape[1]})"
