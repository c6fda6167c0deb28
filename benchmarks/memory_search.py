"""How fast memory searches over gRPC, beside exact NumPy in process, pgvector and ChromaDB, on the same data and run.

50 namespaces, k=10, clustered unit vectors: 100,000 x 384 and 20,000 x 1024. The default store answers over gRPC with
identity, validation and the winners' rows; NumPy computes on arrays that lie ready; PostgreSQL with pgvector orders
the rows of a namespace by exact distance, without an approximate index and as both come configured; ChromaDB's own
server has a collection for each namespace, and one of all that is filtered. Paths take turns in short rounds, so that
whatever else the machine does weighs on all of them.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import numpy as np
import numpy.typing as npt
import psutil
import uvloop

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import memory_service_pb2_grpc
from services.common.db.database import Database
from services.common.db.migrate import upgrade_database
from services.common.logging import configure_logging
from services.common.runner import settle
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.stores.sql.store import SqlMemoryStore
from tests.support.harness import serve_services

_NAMESPACES = 50
_K = 10
_ROUNDS = 6
_QUERIES_IN_ROUND = 60
_CONCURRENCY = 8
_BATCH = 1000
_BEARER = "dev:alice:sales=operator"
_NEAREST = """
SELECT id, content, embedding <=> $2 AS distance FROM memories WHERE namespace = $1 ORDER BY embedding <=> $2 LIMIT $3
"""
_SIZES = {"100k": (100_000, 384), "20k": (20_000, 1024), "small": (5_000, 64)}

Matrix = npt.NDArray[np.float32]


@dataclass
class Probe:
    """One way to search: given a namespace and a query vector, the ids of the nearest."""

    name: str
    search: Callable[[int, Matrix], Awaitable[list[str]]]
    concurrency: int = 1
    milliseconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    hits: int = 0
    asked: int = 0
    process: psutil.Process | None = None
    """The server, when there is one; its children count with it."""
    recalls: bool = True
    """Whether it looks for anything at all."""
    cpu: list[float] = field(default_factory=list)
    """Milliseconds of the server's CPU per call."""


def dataset(rows: int, dimension: int) -> list[Matrix]:
    """Return the vectors of each namespace: unit length, around a few centres, the same in every process."""
    random = np.random.default_rng(42)
    centres = random.normal(size=(20, dimension))
    matrices = []
    for _ in range(_NAMESPACES):
        count = rows // _NAMESPACES
        points = centres[random.integers(0, len(centres), count)] + 0.7 * random.normal(size=(count, dimension))
        matrices.append((points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32))
    return matrices


def exact(matrix: Matrix, query: Matrix) -> list[str]:
    """Return the ids of the nearest rows."""
    scores = matrix @ query
    nearest = np.argpartition(-scores, _K)[:_K]
    return [f"r{row}" for row in nearest[np.argsort(-scores[nearest])]]


async def _load(directory: Path, matrices: list[Matrix]) -> float:
    """Save everything with the default store; return rows a second."""
    url = f"sqlite:///{directory / 'memory.db'}"
    await upgrade_database("memory", url)
    database = Database(url, "memory")
    store = SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
    now = datetime.now(UTC)
    started = time.perf_counter()
    for number, matrix in enumerate(matrices):
        key = NamespaceKey("sales", f"crew{number}", MemoryKind.UNIFIED)
        for start in range(0, len(matrix), _BATCH):
            records = [
                Record(f"r{start + n}", Unified(f"memory {start + n} of crew {number}"), vector)
                for n, vector in enumerate(matrix[start : start + _BATCH])
            ]
            await store.save(key, EmbeddingSpace("benchmark", matrix.shape[1]), records, now)
    elapsed = time.perf_counter() - started
    await database.close()
    return sum(len(matrix) for matrix in matrices) / elapsed


async def _serve(directory: Path) -> None:
    """Serve auth and memory until standard input closes."""
    configure_logging("WARNING", service="memory")
    async with serve_services(directory, "memory") as harness:
        settle()
        print(harness.address, flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextlib.contextmanager
def _server(*arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", "benchmarks.memory_search", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        address = server.stdout.readline().strip()
        if not address:
            sys.exit("the server did not start")
        yield address, psutil.Process(server.pid)
        server.stdin.close()


async def _echo(answer: bytes) -> None:
    """Serve a bare server that reads searches and gives one and the same answer, until standard input closes."""
    response = pb.SearchRecordsResponse.FromString(answer)

    async def reply(_request: pb.SearchRecordsRequest, _context: object) -> pb.SearchRecordsResponse:
        return response

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        reply,
        request_deserializer=pb.SearchRecordsRequest.FromString,
        response_serializer=pb.SearchRecordsResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler("coxswain.memory.v1.MemoryService", {"SearchRecords": method})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    settle()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


def _grpc_search(channel: grpc.aio.Channel) -> Callable[[int, Matrix], Awaitable[list[str]]]:
    memories: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)
    metadata = (("authorization", f"Bearer {_BEARER}"),)

    async def search(number: int, query: Matrix) -> list[str]:
        request = pb.SearchRecordsRequest(
            namespace=pb.Namespace(memory_id=f"crew{number}"), vector=pb.Vector(values=query.tolist()), limit=_K
        )
        response = await memories.SearchRecords(request, metadata=metadata)
        return [result.record.id for result in response.results]

    return search


def _fill_chroma(directory: Path, matrices: list[Matrix]) -> float:
    """Add everything to a collection for each namespace, and to one of all, in process; return rows a second."""
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(str(directory), settings=Settings(anonymized_telemetry=False))
    configuration: Any = {"hnsw": {"space": "cosine"}}
    together = client.create_collection("together", configuration=configuration, embedding_function=None)
    started = time.perf_counter()
    for number, matrix in enumerate(matrices):
        collection = client.create_collection(f"crew{number}", configuration=configuration, embedding_function=None)
        for start in range(0, len(matrix), _BATCH):
            part = matrix[start : start + _BATCH]
            ids = [f"r{start + n}" for n in range(len(part))]
            collection.add(ids=ids, embeddings=part, documents=[f"memory {name} of crew {number}" for name in ids])
            together.add(
                ids=[f"{number}/{name}" for name in ids],
                embeddings=part,
                documents=[f"memory {name} of crew {number}" for name in ids],
                metadatas=[{"crew_id": f"crew{number}"}] * len(ids),
            )
    return 2 * sum(len(matrix) for matrix in matrices) / (time.perf_counter() - started)


@contextlib.contextmanager
def _chroma_server(directory: Path) -> Iterator[tuple[Any, psutil.Process]]:
    import chromadb
    from chromadb.config import Settings

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    executable = Path(sys.executable).with_name("chroma")
    command = [str(executable), "run", "--path", str(directory), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
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
            yield client, psutil.Process(server.pid)
        finally:
            server.terminate()


def _chroma_search(client: Any, *, together: bool) -> Callable[[int, Matrix], Awaitable[list[str]]]:
    names = ["together"] * _NAMESPACES if together else [f"crew{number}" for number in range(_NAMESPACES)]
    collections = [client.get_collection(name, embedding_function=None) for name in names]

    def ask(number: int, query: Matrix) -> list[str]:
        found = collections[number].query(
            query_embeddings=query[None, :],
            n_results=_K,
            include=["documents", "distances"],
            where={"crew_id": f"crew{number}"} if together else None,
        )
        return [name.rpartition("/")[2] for name in found["ids"][0]]

    async def search(number: int, query: Matrix) -> list[str]:
        return await asyncio.to_thread(ask, number, query)

    return search


@contextlib.contextmanager
def _postgres_server(directory: Path) -> Iterator[tuple[str, psutil.Process]]:
    # The library keeps its lock there, and warns where there is no such directory.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(directory))
    from pgserver.postgres_server import get_server

    data = directory / "postgres"
    server = get_server(data)
    try:
        yield server.get_uri(), psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
    finally:
        server.cleanup()


@contextlib.asynccontextmanager
async def _pgvector(url: str) -> AsyncIterator[asyncpg.Pool | None]:
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
    pool = asyncpg.create_pool(url, min_size=_CONCURRENCY, max_size=_CONCURRENCY, init=_know_vectors)
    async with pool:
        yield pool


async def _know_vectors(connection: asyncpg.Connection) -> None:
    def encode(vector: Matrix) -> bytes:
        return struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes()

    def decode(data: bytes) -> Matrix:
        return np.frombuffer(data, ">f4", offset=4).astype(np.float32)

    await connection.set_type_codec("vector", schema="public", encoder=encode, decoder=decode, format="binary")


async def _fill_pgvector(pool: asyncpg.Pool, matrices: list[Matrix]) -> float:
    """Copy everything into one table with an index on its namespace; return rows a second."""
    started = time.perf_counter()
    await pool.execute(
        f"CREATE TABLE memories (namespace text, id text, content text, embedding vector({matrices[0].shape[1]}))"
    )
    for number, matrix in enumerate(matrices):
        rows = [(f"crew{number}", f"r{n}", f"memory {n} of crew {number}", row) for n, row in enumerate(matrix)]
        await pool.copy_records_to_table("memories", records=rows)
    await pool.execute("CREATE INDEX ON memories (namespace)")
    await pool.execute("VACUUM ANALYZE memories")
    return sum(len(matrix) for matrix in matrices) / (time.perf_counter() - started)


def _pgvector_search(pool: asyncpg.Pool) -> Callable[[int, Matrix], Awaitable[list[str]]]:
    async def search(number: int, query: Matrix) -> list[str]:
        return [row["id"] for row in await pool.fetch(_NEAREST, f"crew{number}", query, _K)]

    return search


async def _round(probe: Probe, matrices: list[Matrix], seed: int) -> None:
    random = np.random.default_rng(seed)
    asked = []
    for _ in range(_QUERIES_IN_ROUND):
        number = int(random.integers(_NAMESPACES))
        near = matrices[number][int(random.integers(len(matrices[number])))]
        query = near + 0.3 * random.normal(size=near.shape).astype(np.float32) / np.sqrt(len(near))
        asked.append((number, (query / np.linalg.norm(query)).astype(np.float32)))
    waiting = list(asked)
    found: list[tuple[int, Matrix, list[str]]] = []

    async def caller() -> None:
        while waiting:
            number, query = waiting.pop()
            started = time.perf_counter()
            ids = await probe.search(number, query)
            probe.milliseconds.append((time.perf_counter() - started) * 1e3)
            found.append((number, query, ids))

    before, started = _cpu_seconds(probe), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(probe.concurrency)))
    probe.rates.append(len(asked) / (time.perf_counter() - started))
    if probe.process is not None:
        probe.cpu.append((_cpu_seconds(probe) - before) / len(asked) * 1e3)
    for number, query, ids in found:
        probe.hits += len(set(ids) & set(exact(matrices[number], query)))
        probe.asked += _K


def _recall(probe: Probe) -> str:
    return f"{probe.hits / probe.asked:.3f}" if probe.recalls else ""


async def _one_answer(channel: grpc.aio.Channel, query: Matrix) -> bytes:
    """Return the bytes of what memory answers to a search."""
    search: Any = channel.unary_unary("/coxswain.memory.v1.MemoryService/SearchRecords")
    request = pb.SearchRecordsRequest(
        namespace=pb.Namespace(memory_id="crew0"), vector=pb.Vector(values=query.tolist()), limit=_K
    )
    answer: bytes = await search(request.SerializeToString(), metadata=(("authorization", f"Bearer {_BEARER}"),))
    return answer


def _cpu_seconds(probe: Probe) -> float:
    if probe.process is None:
        return 0.0
    times = [process.cpu_times() for process in _family(probe.process)]
    return float(sum(spent.user + spent.system for spent in times))


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _resident_bytes(process: psutil.Process) -> int:
    family = _family(process)
    # What processes share counts once.
    return int(sum(each.memory_full_info().pss for each in family) if len(family) > 1 else process.memory_info().rss)


async def _measure(size: str, directory: Path, *, chroma: bool) -> None:
    rows, dimension = _SIZES[size]
    matrices = dataset(rows, dimension)
    print(f"\n{rows:,} x {dimension}, {_NAMESPACES} namespaces, k={_K}", flush=True)
    print(f"saved by the default store: {await _load(directory, matrices):,.0f} rows/s", flush=True)

    async def in_process(number: int, query: Matrix) -> list[str]:
        return exact(matrices[number], query)

    if chroma:
        filled = await asyncio.to_thread(_fill_chroma, directory / "chroma", matrices)
        print(f"added by ChromaDB: {filled:,.0f} rows/s", flush=True)
    async with contextlib.AsyncExitStack() as stack:
        postgres_url, postgres_process = stack.enter_context(_postgres_server(directory))
        address, process = stack.enter_context(_server("--serve", str(directory)))
        channels = [grpc.aio.insecure_channel(address) for _ in range(2)]
        answer = directory / "answer"
        answer.write_bytes(await _one_answer(channels[0], matrices[0][0]))
        echo_address, echo_process = stack.enter_context(_server("--echo", str(answer)))
        channels += [grpc.aio.insecure_channel(echo_address) for _ in range(2)]
        probes = [
            Probe("exact NumPy, in process", in_process),
            Probe("memory over gRPC", _grpc_search(channels[0]), process=process),
            Probe(
                f"memory over gRPC, {_CONCURRENCY} at once", _grpc_search(channels[1]), _CONCURRENCY, process=process
            ),
            Probe(
                "bare gRPC echo of the same messages", _grpc_search(channels[2]), process=echo_process, recalls=False
            ),
            Probe(
                f"bare gRPC echo, {_CONCURRENCY} at once",
                _grpc_search(channels[3]),
                _CONCURRENCY,
                process=echo_process,
                recalls=False,
            ),
        ]
        pool = await stack.enter_async_context(_pgvector(postgres_url))
        if pool is None:
            print("pgvector: left out, this PostgreSQL does not have the extension", flush=True)
        else:
            print(f"copied to pgvector: {await _fill_pgvector(pool, matrices):,.0f} rows/s", flush=True)
            for at_once in (1, _CONCURRENCY):
                name = "pgvector, exact, filtered" + (f", {at_once} at once" if at_once > 1 else "")
                probes.append(Probe(name, _pgvector_search(pool), at_once, process=postgres_process))
        if chroma:
            client, chroma_process = stack.enter_context(_chroma_server(directory / "chroma"))
            for layout, together in (("a collection each", False), ("one, filtered", True)):
                search = _chroma_search(client, together=together)
                for at_once in (1, _CONCURRENCY):
                    name = f"ChromaDB's server, {layout}" + (f", {at_once} at once" if at_once > 1 else "")
                    probes.append(Probe(name, search, at_once, process=chroma_process))
        for probe in probes:
            # Every namespace is read once before anything counts.
            for number, matrix in enumerate(matrices):
                await probe.search(number, matrix[0])
        for number in range(_ROUNDS):
            for probe in probes:
                await _round(probe, matrices, number)
        print(f"{'':46}{'p50 ms':>9}{'p99 ms':>9}{'calls/s':>9}{'recall':>8}{'CPU ms':>9}{'resident':>11}")
        for probe in probes:
            ordered = sorted(probe.milliseconds)
            resident = f"{_resident_bytes(probe.process) / 2**20:.0f} MB" if probe.process else ""
            print(
                f"{probe.name:46}{statistics.median(ordered):9.2f}{ordered[int(0.99 * len(ordered))]:9.2f}"
                f"{statistics.median(probe.rates):9.0f}{_recall(probe):>8}"
                f"{statistics.fmean(probe.cpu) if probe.cpu else 0:9.2f}{resident:>11}",
                flush=True,
            )
        for channel in channels:
            await channel.close()


def main() -> None:
    """Measure, or be the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--echo", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=[*_SIZES], action="append", help="which data (default: 100k and 20k)")
    parser.add_argument("--no-chroma", action="store_true", help="leave ChromaDB out: it takes minutes to fill")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.serve is not None:
        uvloop.run(_serve(arguments.serve))
        return
    if arguments.echo is not None:
        uvloop.run(_echo(arguments.echo.read_bytes()))
        return
    # What was started is ended by the blocks that started it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for size in arguments.size or ["100k", "20k"]:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(_measure(size, Path(directory), chroma=not arguments.no_chroma))


if __name__ == "__main__":
    main()
