"""ChromaDB: its own server, filled in process."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.memory_stores.data import BATCH, NAMESPACES, K, Matrix, text_of
from benchmarks.memory_stores.probes import Search
from tests.support.child_process import free_port


def fill(directory: Path, matrices: Sequence[Matrix]) -> float:
    """Add everything to a collection for each namespace; return rows a second."""
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(str(directory), settings=Settings(anonymized_telemetry=False))
    configuration: Any = {"hnsw": {"space": "cosine"}}
    started = time.perf_counter()
    for number, matrix in enumerate(matrices):
        collection = client.create_collection(f"crew{number}", configuration=configuration, embedding_function=None)
        for start in range(0, len(matrix), BATCH):
            part = matrix[start : start + BATCH]
            rows = range(start, start + len(part))
            documents = [text_of(number, row) for row in rows]
            collection.add(ids=[f"r{row}" for row in rows], embeddings=part, documents=documents)
    return sum(len(matrix) for matrix in matrices) / (time.perf_counter() - started)


@contextlib.contextmanager
def server(directory: Path) -> Iterator[tuple[Any, psutil.Process]]:
    """Run ChromaDB's server; yield a client."""
    import chromadb
    from chromadb.config import Settings

    port = free_port()
    executable = Path(sys.executable).with_name("chroma")
    command = [str(executable), "run", "--path", str(directory), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            client = None
            while client is None:
                try:
                    client = chromadb.HttpClient("127.0.0.1", port, settings=Settings(anonymized_telemetry=False))
                except Exception:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
            yield client, psutil.Process(process.pid)
        finally:
            process.terminate()


def search_in(client: Any) -> Search:
    """Return the way to search a namespace's collection."""
    collections = [client.get_collection(f"crew{number}", embedding_function=None) for number in range(NAMESPACES)]

    def ask(number: int, query: Matrix) -> list[str]:
        found = collections[number].query(
            query_embeddings=query[None, :], n_results=K, include=["documents", "distances"]
        )
        return list(found["ids"][0])

    async def search(number: int, query: Matrix) -> list[str]:
        return await asyncio.to_thread(ask, number, query)

    return search
