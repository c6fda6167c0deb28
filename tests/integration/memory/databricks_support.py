"""Memory beside an emulated workspace, and backends that lie in it."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coxswain.memory.v1 import memory_backend_pb2 as backend_pb
from coxswain.memory.v1 import memory_backend_service_pb2_grpc, record_pb2, vector_index_service_pb2_grpc
from services.memory.domain.records import MemoryKind
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.settings import MemorySettings
from tests.integration.memory.support import DIMENSION, MODEL, EmbeddingModels, serve_memory
from tests.support.harness import Harness
from tests.support.vector_search_emulator import VectorSearchEmulator

CATALOG, SCHEMA, ENDPOINT = "main", "memories", "shared"
KINDS = {kind.name.lower(): kind for kind in MemoryKind}


@dataclass
class World:
    """Memory served beside a workspace."""

    harness: Harness
    models: EmbeddingModels
    vectors: VectorSearchEmulator

    @property
    def url(self) -> str:
        return self.vectors.url


@contextlib.asynccontextmanager
async def serve_beside(
    tmp_path: Path, database_url: str, vectors: VectorSearchEmulator, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """Serve memory whose operator's workspace is the emulator."""
    monkeypatch.setenv("DATABRICKS_HOST", vectors.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-operator")
    settings = MemorySettings(
        provision_poll_seconds=0.01, provision_seconds=2, databricks_visibility_seconds=0.01, databricks_attempts=2
    )
    async with serve_memory(tmp_path, database_url, settings=settings) as (harness, models):
        yield World(harness, models, vectors)


def index_name(kind: str = "unified") -> str:
    """Return the full name of a kind's index."""
    return f"{CATALOG}.{SCHEMA}.{kind}"


def make_indexes(vectors: VectorSearchEmulator, endpoint_type: Any = "STANDARD") -> None:
    """Make the endpoint and an index for each kind, online at once."""
    vectors.add_endpoint(ENDPOINT, endpoint_type)
    for kind in KINDS:
        vectors.add_index(index_name(kind), ENDPOINT, DatabricksIndexSchemas.get_schema(kind), DIMENSION)


def backend_message(url: str, name: str = "workspace", **fields: Any) -> backend_pb.MemoryBackend:
    """Return the configuration of a backend with an index for each kind."""
    config: Mapping[str, Any] = {
        "workspace_url": url,
        "endpoint": ENDPOINT,
        "catalog": CATALOG,
        "schema": SCHEMA,
        "indexes": [
            backend_pb.KindIndex(kind=record_pb2.MemoryKind.Value(f"MEMORY_KIND_{kind}"), index=kind_name)
            for kind_name, kind in KINDS.items()
        ],
        "embedding_model": MODEL,
        "embedding_dimension": DIMENSION,
        **fields,
    }
    return backend_pb.MemoryBackend(name=name, databricks=backend_pb.DatabricksBackendConfig(**config))


def backends_stub(harness: Harness, *channel: Any) -> Any:
    """Return the untyped stub of MemoryBackendService."""
    return memory_backend_service_pb2_grpc.MemoryBackendServiceStub(harness.channel(*channel))


def indexes_stub(harness: Harness, *channel: Any) -> Any:
    """Return the untyped stub of VectorIndexService."""
    return vector_index_service_pb2_grpc.VectorIndexServiceStub(harness.channel(*channel))


async def use_workspace(harness: Harness, url: str, *bearers: str) -> list[str]:
    """Create and activate a backend for each caller's group; return their ids."""
    ids = []
    for bearer in bearers:
        backends = backends_stub(harness, bearer)
        request = backend_pb.CreateMemoryBackendRequest(backend=backend_message(url))
        created = (await backends.CreateMemoryBackend(request)).backend
        assert (
            await backends.ActivateMemoryBackend(backend_pb.ActivateMemoryBackendRequest(id=created.id))
        ).backend.active
        ids.append(created.id)
    return ids
