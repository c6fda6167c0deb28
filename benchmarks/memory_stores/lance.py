"""LanceDB, embedded in this process: a table for each namespace, searched exactly."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory_stores.data import BATCH, NAMESPACES, K, Matrix, text_of
from benchmarks.memory_stores.probes import Search


def why_missing() -> str:
    """Return why LanceDB cannot be measured; an empty text when it can. It comes with CrewAI."""
    try:
        import lancedb  # noqa: F401
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def fill(directory: Path, matrices: Sequence[Matrix]) -> float:
    """Add everything; return rows a second."""
    import lancedb
    import pyarrow as pa  # type: ignore[import-untyped]

    connection: Any = lancedb.connect(str(directory))
    dimension = matrices[0].shape[1]
    schema = pa.schema([("id", pa.string()), ("content", pa.string()), ("vector", pa.list_(pa.float32(), dimension))])
    started = time.perf_counter()
    for number, matrix in enumerate(matrices):
        table = connection.create_table(f"crew{number}", schema=schema)
        for start in range(0, len(matrix), BATCH):
            part = matrix[start : start + BATCH]
            rows = range(start, start + len(part))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), dimension)
            columns = [[f"r{row}" for row in rows], [text_of(number, row) for row in rows], vectors]
            table.add(pa.table(columns, schema=schema))
    return sum(len(matrix) for matrix in matrices) / (time.perf_counter() - started)


def search_in(directory: Path) -> Search:
    """Return the way to search a namespace's table."""
    import lancedb

    connection: Any = lancedb.connect(str(directory))
    tables = [connection.open_table(f"crew{number}") for number in range(NAMESPACES)]

    def ask(number: int, query: Matrix) -> list[str]:
        found = tables[number].search(query).distance_type("cosine").select(["id", "content", "_distance"]).limit(K)
        return [row["id"] for row in found.to_list()]

    async def search(number: int, query: Matrix) -> list[str]:
        return await asyncio.to_thread(ask, number, query)

    return search
