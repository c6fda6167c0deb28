"""Memory and auth on loopback, with a small models service beside them that embeds and counts."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import memory_service_pb2_grpc, record_pb2
from coxswain.models.v1 import inference_pb2, inference_service_pb2_grpc
from services.common.errors import NotFound
from services.common.grpc.status import failure_metadata, to_status
from services.common.hosting import Host
from services.common.identity.authenticator import SERVICE
from services.common.settings import SERVICES, CommonSettings
from services.memory.service import build as build_memory
from services.memory.settings import MemorySettings
from tests.support.harness import Harness
from tests.support.service_tables import make_service_tables
from tests.support.text_vectors import embed_text

MODEL = "test/embed"
DIMENSION = 32


class EmbeddingModels(inference_service_pb2_grpc.InferenceServiceServicer):
    """Embeds by hashed words; "test/embed" is the default, "test/wide" has twice its dimension."""

    def __init__(self) -> None:
        self.dimensions = {MODEL: DIMENSION, "test/wide": 2 * DIMENSION}
        self.labels: list[dict[str, str]] = []
        self.texts: list[str] = []

    async def Embed(self, request: Any, context: Any) -> Any:
        self.labels.append(dict(request.labels))
        if SERVICE not in dict(context.invocation_metadata()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no service token")
        model = request.model or MODEL
        if model not in self.dimensions:
            error = NotFound.of("model", model)
            code, status = to_status(error, "")
            await context.abort(code, status.message, failure_metadata(error, status))
        dimension = self.dimensions[model]
        self.texts.extend(request.texts)
        return inference_pb2.EmbedResponse(
            embeddings=[inference_pb2.Embedding(values=embed_text(text, dimension)) for text in request.texts],
            model=model,
            dimension=dimension,
        )


@contextlib.asynccontextmanager
async def serve_models(socket: str) -> AsyncIterator[EmbeddingModels]:
    """Serve embeddings on a UNIX socket."""
    models = EmbeddingModels()  # type: ignore[abstract]
    server = grpc.aio.server()
    inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(models, server)
    server.add_insecure_port(socket)
    await server.start()
    try:
        yield models
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def serve_memory(
    data_dir: Path, database_url: str = "", *, settings: MemorySettings | None = None, **common: Any
) -> AsyncIterator[tuple[Harness, EmbeddingModels]]:
    """Serve auth and memory; see `tests.support.harness.serve_services`."""
    from services.auth.service import build as build_auth
    from services.auth.settings import AuthSettings

    values: Mapping[str, Any] = {
        "data_dir": data_dir,
        "database_url": "" if database_url.startswith("sqlite") else database_url,
        "migrate": "auto",
        "drain_seconds": 1,
        **common,
    }
    with tempfile.TemporaryDirectory(prefix="coxswain-") as run_dir:
        socket, models_socket = f"unix:{run_dir}/internal.sock", f"unix:{run_dir}/models.sock"
        async with serve_models(models_socket) as models:
            host = Host(CommonSettings(**values), {**dict.fromkeys(SERVICES, socket), "models": models_socket})
            if not values["database_url"]:
                for service in ("auth", "memory"):
                    make_service_tables(service, f"sqlite:///{data_dir / f'{service}.db'}")
            auth = await host.add("auth", build_auth, AuthSettings())
            memory = await host.add("memory", build_memory, settings or MemorySettings())
            port, _ = await host.open(public_address="127.0.0.1:0", internal_address=socket, identity=auth.identity)
            harness = Harness(f"127.0.0.1:{port}", socket, data_dir, host, {"auth": auth, "memory": memory})
            try:
                yield harness, models
            finally:
                await harness.close()
                await host.close(0.2)


def stub(channel: grpc.aio.Channel) -> Any:
    """Return the untyped stub of MemoryService."""
    return memory_service_pb2_grpc.MemoryServiceStub(channel)


def unified(content: str, record_id: str = "", **fields: Any) -> record_pb2.Record:
    """Return a unified record; fields of the record itself are told apart from those of its body."""
    own = {name: fields.pop(name) for name in ("embedding", "metadata", "agent_id", "create_time") if name in fields}
    return record_pb2.Record(id=record_id, unified=record_pb2.UnifiedRecord(content=content, **fields), **own)


def place(memory_id: str = "crew", kind: int = record_pb2.MEMORY_KIND_UNIFIED) -> pb.Namespace:
    """Return a namespace."""
    return pb.Namespace(memory_id=memory_id, kind=record_pb2.MemoryKind.ValueType(kind))
