"""What one tenant floods a server with, each kind in a process of its own; `python -m benchmarks.flood` measures it."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import grpc
import uvloop

from coxswain.auth.v1 import auth_service_pb2_grpc, principal_pb2
from coxswain.memory.v1 import document_pb2, document_service_pb2_grpc, memory_pb2, memory_service_pb2_grpc, record_pb2
from coxswain.models.v1 import inference_pb2, inference_service_pb2_grpc, model_pb2, model_service_pb2_grpc
from coxswain.orchestrator.v1 import execution_pb2, execution_service_pb2_grpc
from tests.support.http2_flood import Http2Flood

LOUD = (("authorization", "Bearer dev:eve:loud=editor"),)
SLOW_MODEL = "openai/gpt-4.1-mini"
_NICENESS = 5
_RISE_SECONDS = 1.0
_PATH = "/coxswain.models.v1.ModelService/ListModels"
_WORDS = "The harbour master counts the boats that come home before the storm does. "
_NAMESPACE = memory_pb2.Namespace(memory_id="loud")

One = Callable[["Server"], Awaitable[object]]


class Server:
    """Stubs of every service, on a connection of the flooder's own."""

    def __init__(self, port: int, execution_id: str, crew_id: str) -> None:
        self.port, self.execution_id, self.crew_id = port, execution_id, crew_id
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.auth = auth_service_pb2_grpc.AuthServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.inference = inference_service_pb2_grpc.InferenceServiceStub(self.channel)
        self.memory = memory_service_pb2_grpc.MemoryServiceStub(self.channel)
        self.documents = document_service_pb2_grpc.DocumentServiceStub(self.channel)
        self.executions = execution_service_pb2_grpc.ExecutionServiceStub(self.channel)


@dataclass(frozen=True)
class Flood:
    """One kind of flood: so many that do the same thing over and over."""

    what: str
    one: One
    times_at_once: int
    connections: int = 2


def _message(text: str) -> inference_pb2.Message:
    return inference_pb2.Message(role=inference_pb2.MESSAGE_ROLE_USER, content=[inference_pb2.ContentPart(text=text)])


async def _call(server: Server) -> None:
    await server.models.ListModels(model_pb2.ListModelsRequest(), metadata=LOUD)


async def _who(server: Server) -> None:
    await server.auth.WhoAmI(principal_pb2.WhoAmIRequest(), metadata=LOUD)


async def _start(server: Server) -> None:
    request = execution_pb2.StartExecutionRequest(crew_id=server.crew_id)
    await server.executions.StartExecution(request, metadata=LOUD)


async def _watch(server: Server) -> None:
    watching = execution_pb2.WatchExecutionRequest(id=server.execution_id)
    async for _ in server.executions.WatchExecution(watching, metadata=LOUD, timeout=2):
        pass


async def _export_unread(server: Server) -> None:
    """Begin a stream of large answers and leave it unread for a while."""
    call = server.memory.ExportRecords(memory_pb2.ExportRecordsRequest(namespace=_NAMESPACE), metadata=LOUD)
    await asyncio.sleep(2)
    call.cancel()


async def _list_much(server: Server) -> None:
    await server.memory.ListRecords(memory_pb2.ListRecordsRequest(namespace=_NAMESPACE, page_size=1000), metadata=LOUD)


async def _send_much(server: Server) -> None:
    text = _message(_WORDS * 50_000)
    request = inference_pb2.CountTokensRequest(model=SLOW_MODEL, messages=[text])
    await server.inference.CountTokens(request, metadata=LOUD)


async def _complete(server: Server) -> None:
    text = _message("Hello")
    request = inference_pb2.CompleteRequest(completion=inference_pb2.Completion(model=SLOW_MODEL, messages=[text]))
    await server.inference.Complete(request, metadata=LOUD, timeout=5)


async def _embed(server: Server) -> None:
    texts = [f"{_WORDS * 10}{os.urandom(8).hex()}" for _ in range(100)]
    await server.inference.Embed(inference_pb2.EmbedRequest(texts=texts), metadata=LOUD)


async def _save_document(server: Server) -> None:
    name = f"{os.urandom(8).hex()}.txt"

    async def requests() -> AsyncIterator[document_pb2.SaveDocumentRequest]:
        yield document_pb2.SaveDocumentRequest(header=document_pb2.DocumentHeader(file_name=name))
        for _ in range(4):
            yield document_pb2.SaveDocumentRequest(chunk=(_WORDS * 3000).encode())

    async for _ in server.documents.SaveDocument(requests(), metadata=LOUD):
        pass


async def _frames(server: Server, send: Callable[[Http2Flood], None]) -> None:
    def flood() -> None:
        with Http2Flood(server.port) as connection:
            send(connection)
            time.sleep(0.5)

    await asyncio.to_thread(flood)


async def _reset(server: Server) -> None:
    await _frames(server, lambda connection: connection.begin_and_reset(_PATH, 1000))


async def _ping(server: Server) -> None:
    await _frames(server, lambda connection: connection.ping(5000))


FLOODS = {
    "calls": Flood("500 ListModels at once", _call, 500),
    "identity": Flood("500 WhoAmI at once", _who, 500),
    "streams": Flood("900 WatchExecution, each left after 2 s", _watch, 900),
    "executions": Flood("100 StartExecution at once", _start, 100),
    "big-answers": Flood("16 ListRecords of 3 MB at once", _list_much, 16),
    "unread-streams": Flood("300 ExportRecords that are not read", _export_unread, 300),
    "big-requests": Flood("8 CountTokens of 3.7 MB at once", _send_much, 8),
    "slow-models": Flood("300 Complete of a model that never answers", _complete, 300),
    "embeddings": Flood("32 Embed of 100 texts at once", _embed, 32),
    "documents": Flood("8 SaveDocument of 900 KB at once", _save_document, 8),
    "resets": Flood("4 connections that reset 1,000 calls every 0.5 s", _reset, 4, connections=1),
    "pings": Flood("4 connections that send 5,000 pings every 0.5 s", _ping, 4, connections=1),
}


async def fill(server: Server) -> None:
    """Store what the floods of large answers ask for: 3 MB of records."""
    for number in range(60):
        content = record_pb2.UnifiedRecord(content=f"{number} {_WORDS * 700}")
        record = record_pb2.Record(unified=content)
        await server.memory.SaveRecords(
            memory_pb2.SaveRecordsRequest(namespace=_NAMESPACE, records=[record]), metadata=LOUD
        )


def run(kind: str, port: int, execution_id: str, crew_id: str, control: Connection) -> None:
    """Flood until told to stop; answer with what came of it: a count for each outcome, and seconds of CPU used."""
    os.nice(_NICENESS)
    uvloop.run(_flood(FLOODS[kind], port, execution_id, crew_id, control))


async def _flood(flood: Flood, port: int, execution_id: str, crew_id: str, control: Connection) -> None:
    servers = [Server(port, execution_id, crew_id) for _ in range(flood.connections)]
    outcomes = Counter[str]()

    async def again(server: Server) -> None:
        while True:
            try:
                await flood.one(server)
                outcomes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                outcomes[error.code().name] += 1
                await asyncio.sleep(0.01)
            except OSError:
                outcomes["connection ended"] += 1
            except Exception as error:
                outcomes[repr(error)] += 1
                await asyncio.sleep(0.1)

    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(again(servers[number % len(servers)])) for number in range(flood.times_at_once)
    ]
    await asyncio.sleep(_RISE_SECONDS)
    control.send("flooding")
    await asyncio.to_thread(control.recv)
    for task in tasks:
        task.cancel()
    control.send((dict(outcomes), time.process_time()))
