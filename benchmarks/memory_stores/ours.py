"""The default store, in process and behind the server, and a bare server that answers with the same messages."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import psutil

from benchmarks.memory_stores.data import BATCH, K, Matrix, text_of
from benchmarks.memory_stores.probes import Search
from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import memory_service_pb2_grpc, record_pb2
from services.common.db.database import Database
from services.common.db.migrate import upgrade_database
from services.common.logging import configure_logging
from services.common.runner import settle
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.stores.sql.store import SqlMemoryStore
from tests.support.harness import serve_services

_BEARER = "dev:alice:sales=operator"
_METADATA = (("authorization", f"Bearer {_BEARER}"),)
_MODEL = "benchmark"

Save: TypeAlias = Callable[[int, Matrix], Awaitable[None]]
"""Stores a matrix as the namespace of a number."""


async def save(url: str, schema: str, matrices: Sequence[Matrix], first: int = 0) -> float:
    """Save each matrix as a namespace, numbered from `first`; return rows a second."""
    async with saver(url, schema) as save_one_matrix:
        started = time.perf_counter()
        for number, matrix in enumerate(matrices, start=first):
            await save_one_matrix(number, matrix)
        return sum(len(matrix) for matrix in matrices) / (time.perf_counter() - started)


@contextlib.asynccontextmanager
async def saver(url: str, schema: str) -> AsyncIterator[Save]:
    """Yield the way to save a matrix as a namespace of a number, in this process."""
    await upgrade_database(schema, url)
    database = Database(url, schema)
    store = SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)

    async def save_matrix(number: int, matrix: Matrix) -> None:
        key, now = NamespaceKey("sales", f"crew{number}", MemoryKind.UNIFIED), datetime.now(UTC)
        for start in range(0, len(matrix), BATCH):
            records = [
                Record(f"r{start + n}", Unified(text_of(number, start + n)), vector)
                for n, vector in enumerate(matrix[start : start + BATCH])
            ]
            await store.save(key, EmbeddingSpace(_MODEL, matrix.shape[1]), records, now)

    try:
        yield save_matrix
    finally:
        await database.close()


def import_messages(matrix: Matrix) -> list[pb.ImportRecordsRequest]:
    """Return the messages of an import, but for where to store it."""
    return [
        pb.ImportRecordsRequest(
            records=[
                record_pb2.Record(
                    id=f"r{start + n}",
                    embedding=vector.tolist(),
                    unified=record_pb2.UnifiedRecord(content=text_of(0, start + n)),
                )
                for n, vector in enumerate(matrix[start : start + BATCH])
            ]
        )
        for start in range(0, len(matrix), BATCH)
    ]


async def import_all(channel: grpc.aio.Channel, number: int, messages: Sequence[pb.ImportRecordsRequest]) -> None:
    """Import messages as a namespace."""
    memories: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)
    target = pb.ImportTarget(namespace=_namespace(number), embedding_model=_MODEL)

    async def requests() -> AsyncIterator[pb.ImportRecordsRequest]:
        yield pb.ImportRecordsRequest(target=target)
        for message in messages:
            yield message

    async for _ in memories.ImportRecords(requests(), metadata=_METADATA):
        pass


def search_over(channel: grpc.aio.Channel) -> Search:
    """Return the way to search over gRPC."""
    memories: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)

    async def search(number: int, query: Matrix) -> list[str]:
        response = await memories.SearchRecords(_request(number, query), metadata=_METADATA)
        return [result.record.id for result in response.results]

    return search


async def one_answer(channel: grpc.aio.Channel, query: Matrix) -> bytes:
    """Return the bytes of what memory answers to a search."""
    search: Any = channel.unary_unary("/coxswain.memory.v1.MemoryService/SearchRecords")
    answer: bytes = await search(_request(0, query).SerializeToString(), metadata=_METADATA)
    return answer


async def save_one(channel: grpc.aio.Channel, number: int, name: str, vector: Matrix) -> None:
    """Save a record."""
    memories: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)
    record = record_pb2.Record(
        id=name, embedding=vector.tolist(), unified=record_pb2.UnifiedRecord(content=f"memory {name}")
    )
    await memories.SaveRecords(
        pb.SaveRecordsRequest(namespace=_namespace(number), records=[record], embedding_model=_MODEL),
        metadata=_METADATA,
    )


async def delete_one(channel: grpc.aio.Channel, number: int, name: str) -> None:
    """Remove a record."""
    memories: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)
    await memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=_namespace(number), ids=[name]), metadata=_METADATA)


def _namespace(number: int) -> pb.Namespace:
    return pb.Namespace(memory_id=f"crew{number}")


def _request(number: int, query: Matrix) -> pb.SearchRecordsRequest:
    return pb.SearchRecordsRequest(namespace=_namespace(number), vector=pb.Vector(values=query.tolist()), limit=K)


@contextlib.contextmanager
def server(module: str, *arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run one of the servers below as a process; yield its address."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        address = process.stdout.readline().strip()
        if not address:
            sys.exit("the server did not start")
        try:
            yield address, psutil.Process(process.pid)
        finally:
            process.stdin.close()


async def serve(directory: Path, database_url: str) -> None:
    """Serve auth and memory until standard input closes."""
    configure_logging("WARNING", service="memory")
    async with serve_services(directory, "memory", database_url=database_url) as harness:
        settle()
        print(harness.address, flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def echo(answer: bytes) -> None:
    """Serve a bare server that reads searches and gives one and the same answer, until standard input closes."""
    response = pb.SearchRecordsResponse.FromString(answer)

    async def reply(_request: pb.SearchRecordsRequest, _context: object) -> pb.SearchRecordsResponse:
        return response

    listener = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        reply,
        request_deserializer=pb.SearchRecordsRequest.FromString,
        response_serializer=pb.SearchRecordsResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler("coxswain.memory.v1.MemoryService", {"SearchRecords": method})
    listener.add_generic_rpc_handlers((handlers,))
    port = listener.add_insecure_port("127.0.0.1:0")
    await listener.start()
    settle()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await listener.stop(None)
