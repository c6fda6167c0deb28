"""What similarity_search of the Databricks repository costs beside raw HTTP: the same queries to the same emulator.

The emulator of Vector Search is a process of its own that keeps no log; its time is part of every call, on both sides.
Beside the repository stand `aiohttp` posting the query as it is, with its vector encoded and its answer parsed, and
Search of memory over gRPC with a backend in the emulator, embedding not included. "CPU ms" is what the calling process
spends (for gRPC: what the server spends). Paths take turns in short rounds; the ratio is to raw HTTP of the same
concurrency in the same round.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import numpy.typing as npt
import psutil
import uvloop

from coxswain.memory.v1 import memory_backend_pb2 as backend_pb
from coxswain.memory.v1 import memory_backend_service_pb2_grpc, memory_service_pb2_grpc, record_pb2
from coxswain.memory.v1 import memory_pb2 as pb
from services.common.egress import AddressPolicy
from services.common.grpc.call import Call, enter_call
from services.common.http import EgressClient
from services.common.identity.credentials import OutboundCredential
from services.common.logging import configure_logging
from services.memory.domain.filters import Filter
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.rows.columns import Column, DatabricksIndexSchemas
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.endpoint_types import EndpointTypes, Location
from services.memory.stores.databricks.filter_language import Owner, handed_over, query_filter
from services.memory.stores.databricks.recent_writes import RecentWrites
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.transport import ClientLimits, Transport
from tests.support.harness import serve_services

_GROUP, _CREW = "sales", "crew"
_BEARER = f"dev:alice:{_GROUP}=admin"
_TOKEN = "dapi-benchmark"
_CATALOG, _SCHEMA, _ENDPOINT = "main", "memories", "shared"
_INDEX = f"{_CATALOG}.{_SCHEMA}.unified"
_MODEL = "benchmark"
_DIMENSION = 1024
_K = 10
_ROUNDS = 6
_CALLS_IN_ROUND = 150
_CONCURRENCIES = (1, 16)
_LIMITS = ClientLimits(
    attempts=1,
    attempt_seconds=30,
    call_seconds=60,
    upsert_rows=200,
    upsert_bytes=8_000_000,
    delete_keys=1000,
    scan_rows=1000,
    response_bytes=128 * 1024 * 1024,
)

Vector = npt.NDArray[np.float32]
Search = Callable[[Vector], Awaitable[list[str]]]


@dataclass
class Probe:
    """One way to search at one concurrency: given a vector, the ids of the nearest."""

    name: str
    search: Search
    concurrency: int
    process: psutil.Process
    """Whose CPU is counted."""
    milliseconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Milliseconds per call."""


class _OneToken:
    """The operator's token for every workspace."""

    async def resolve(self, origin: str, provider: str = "") -> OutboundCredential:  # noqa: ARG002
        return OutboundCredential(_TOKEN, on_behalf_of_user=False, from_cache=True)

    def forget(self, origin: str, provider: str = "") -> None:  # noqa: ARG002
        raise RuntimeError(f"{origin} refused the token")


@contextlib.contextmanager
def _process(*arguments: str, **environment: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server as a process of its own; yield the address that it prints."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            if not address:
                sys.exit(f"{arguments[0]} did not start")
            yield address, psutil.Process(server.pid)
        finally:
            server.terminate()


async def _serve(directory: Path) -> None:
    """Serve auth and memory until SIGTERM."""
    configure_logging("WARNING", service="memory")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with serve_services(directory, "memory") as harness:
        print(harness.address, flush=True)
        await stopped.wait()


@contextlib.asynccontextmanager
async def _repository(url: str) -> AsyncIterator[DatabricksVectorIndexRepository]:
    enter_call(Call(request_id="benchmark", method="/benchmark"))
    http = EgressClient(
        AddressPolicy([ip_network("127.0.0.0/8")], setting="none"),
        connect_timeout=5,
        connections_per_origin=max(_CONCURRENCIES),
    )
    try:
        client = VectorSearchClient(Transport(http, _OneToken(), _LIMITS), _LIMITS)
        yield DatabricksVectorIndexRepository(client, Location(url, _ENDPOINT), EndpointTypes(), RecentWrites(0))
    finally:
        await http.close()


async def _fill(repository: DatabricksVectorIndexRepository, matrix: Vector) -> float:
    """Make the index and write everything into it; return rows a second."""
    await repository.resources.create_endpoint(storage_optimized=False)
    # New ones are online from the first time that they are looked at.
    await repository.resources.describe_endpoint()
    await repository.resources.create_index(_INDEX, MemoryKind.UNIFIED, _DIMENSION)
    await repository.resources.describe_index(_INDEX)
    now = datetime.now(UTC)
    records = [
        Record(f"r{number}", Unified(f"memory {number}"), vector, created_at=now)
        for number, vector in enumerate(matrix)
    ]
    started = time.perf_counter()
    await repository.upsert(_INDEX, NamespaceKey(_GROUP, _CREW, MemoryKind.UNIFIED), records, _MODEL)
    return len(records) / (time.perf_counter() - started)


def _repository_search(repository: DatabricksVectorIndexRepository) -> Search:
    owner = Owner(MemoryKind.UNIFIED, _GROUP, _CREW)

    async def search(vector: Vector) -> list[str]:
        now = datetime.now(UTC)
        found = await repository.searches.similarity_search(_INDEX, owner, vector, Filter(), _K, now, embeddings=False)
        return [hit.record.stored_id for hit in found.hits]

    return search


def _raw_search(session: aiohttp.ClientSession, url: str) -> Search:
    clauses = handed_over(Owner(MemoryKind.UNIFIED, _GROUP, _CREW), Filter()).clauses
    columns = DatabricksIndexSchemas.get_search_columns(MemoryKind.UNIFIED)
    query = {"columns": list(columns), "num_results": _K, **query_filter(clauses, storage_optimized=False)}
    headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"}
    path = f"{url}/api/2.0/vector-search/indexes/{_INDEX}/query"
    place = list(columns).index(Column.ID)

    async def search(vector: Vector) -> list[str]:
        body = json.dumps({**query, "query_vector": vector.tolist()}, separators=(",", ":")).encode()
        async with session.post(path, data=body, headers=headers) as response:
            response.raise_for_status()
            answer = json.loads(await response.read())
        return [row[place] for row in answer["result"]["data_array"]]

    return search


async def _grpc_search(channel: grpc.aio.Channel, url: str) -> Search:
    """Make the emulator the group's backend, and return Search over gRPC."""
    metadata = (("authorization", f"Bearer {_BEARER}"),)
    backends: Any = memory_backend_service_pb2_grpc.MemoryBackendServiceStub(channel)
    memories: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)
    config = backend_pb.DatabricksBackendConfig(
        workspace_url=url,
        endpoint=_ENDPOINT,
        catalog=_CATALOG,
        schema=_SCHEMA,
        indexes=[backend_pb.KindIndex(kind=record_pb2.MEMORY_KIND_UNIFIED, index="unified")],
        embedding_model=_MODEL,
        embedding_dimension=_DIMENSION,
    )
    request = backend_pb.CreateMemoryBackendRequest(
        backend=backend_pb.MemoryBackend(name="workspace", databricks=config)
    )
    created = await backends.CreateMemoryBackend(request, metadata=metadata)
    await backends.ActivateMemoryBackend(
        backend_pb.ActivateMemoryBackendRequest(id=created.backend.id), metadata=metadata
    )
    key = NamespaceKey(_GROUP, _CREW, MemoryKind.UNIFIED)

    async def search(vector: Vector) -> list[str]:
        request = pb.SearchRecordsRequest(
            namespace=pb.Namespace(memory_id=_CREW), vector=pb.Vector(values=vector.tolist()), limit=_K
        )
        response = await memories.SearchRecords(request, metadata=metadata)
        return [key.stored_id(result.record.id) for result in response.results]

    return search


async def _round(probe: Probe, queries: Vector) -> None:
    waiting = list(queries)

    async def caller() -> None:
        while waiting:
            query = waiting.pop()
            started = time.perf_counter()
            found = await probe.search(query)
            probe.milliseconds.append((time.perf_counter() - started) * 1e3)
            if len(found) != _K:
                sys.exit(f"{probe.name} found {len(found)} of {_K}")

    before, started = _cpu_seconds(probe.process), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(probe.concurrency)))
    probe.rates.append(len(queries) / (time.perf_counter() - started))
    probe.cpu.append((_cpu_seconds(probe.process) - before) / len(queries) * 1e3)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _measure(rows: int, directory: Path) -> None:
    random = np.random.default_rng(42)
    matrix = random.normal(size=(rows, _DIMENSION))
    matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    async with contextlib.AsyncExitStack() as stack:
        url, _ = stack.enter_context(_process("tests.support.vector_search_emulator", "--no-log"))
        address, server = stack.enter_context(
            _process(
                "benchmarks.databricks_search", "--serve", str(directory), DATABRICKS_HOST=url, DATABRICKS_TOKEN=_TOKEN
            )
        )
        repository = await stack.enter_async_context(_repository(url))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=max(_CONCURRENCIES)))
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        written = await _fill(repository, matrix)
        print(f"{rows:,} x {_DIMENSION}, k={_K}; written through the repository: {written:,.0f} rows/s", flush=True)
        paths = [
            ("raw aiohttp", _raw_search(session, url), psutil.Process()),
            ("the repository", _repository_search(repository), psutil.Process()),
            ("memory over gRPC", await _grpc_search(channel, url), server),
        ]
        answers = [await search(matrix[0]) for _, search, _ in paths]
        key = NamespaceKey(_GROUP, _CREW, MemoryKind.UNIFIED)
        nearest = [key.stored_id(f"r{row}") for row in np.argsort(-(matrix @ matrix[0]))[:_K]]
        if any(answer != nearest for answer in answers):
            sys.exit(f"the paths do not find the same: {nearest} {answers}")
        print(f"{'':28}{'p50 ms':>9}{'p99 ms':>9}{'calls/s':>9}{'CPU ms':>9}{'ratio':>8}")
        for concurrency in _CONCURRENCIES:
            probes = [Probe(name, search, concurrency, process) for name, search, process in paths]
            for _ in range(_ROUNDS):
                queries = matrix[random.integers(rows, size=_CALLS_IN_ROUND)]
                for probe in probes:
                    await _round(probe, queries)
            for probe in probes:
                ordered = sorted(probe.milliseconds)
                ratio = statistics.median(rate / raw for rate, raw in zip(probe.rates, probes[0].rates, strict=True))
                print(
                    f"{probe.name + f', {concurrency} at once':28}{statistics.median(ordered):9.2f}"
                    f"{ordered[int(0.99 * len(ordered))]:9.2f}{statistics.median(probe.rates):9.0f}"
                    f"{statistics.fmean(probe.cpu):9.2f}{ratio:8.2f}",
                    flush=True,
                )


def main() -> None:
    """Measure, or be the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=2000, help="how many rows the index holds (default: 2000)")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.serve is not None:
        uvloop.run(_serve(arguments.serve))
        return
    with tempfile.TemporaryDirectory() as directory:
        uvloop.run(_measure(arguments.rows, Path(directory)))


if __name__ == "__main__":
    main()
