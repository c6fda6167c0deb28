"""The memory service put together."""

import asyncio
import contextlib

import structlog

from coxswain.memory.v1 import (
    memory_backend_service_pb2_grpc,
    memory_service_pb2_grpc,
    vector_index_service_pb2_grpc,
)
from services.common.clock import utc_now
from services.common.grpc.server import Registry
from services.common.runtime import Runtime
from services.memory.domain import MemoryKind
from services.memory.embedding import ModelsEmbedder
from services.memory.servicers.memory_backend_service import MemoryBackendServicer
from services.memory.servicers.memory_service import MemoryServicer
from services.memory.servicers.vector_index_service import VectorIndexServicer
from services.memory.settings import MemorySettings
from services.memory.stores.base import MemoryStore
from services.memory.stores.sql.store import SqlMemoryStore
from services.memory.usecases.memory import MemoryUseCases

_log = structlog.get_logger(__name__)


class MemoryService:
    """Serves memories, and removes expired ones in the background."""

    def __init__(self, settings: MemorySettings, runtime: Runtime) -> None:
        self._store = SqlMemoryStore(
            runtime.database,
            cache_bytes=settings.cache_bytes,
            cached_namespace_bytes=settings.cached_namespace_bytes,
        )
        memories = MemoryUseCases(
            _OneStore(self._store),
            ModelsEmbedder(runtime.peers.channel("models")),
            default_model=settings.embedding_model,
            short_term_ttl_hours=settings.short_term_ttl_hours,
        )
        self._memory = MemoryServicer(memories, runtime.settings.max_message_bytes)
        self._sweep_seconds = settings.sweep_seconds
        self._sweeper: asyncio.Task[None] | None = None

    def register(self, registry: Registry) -> None:
        """Register the servicers."""
        registry.add(memory_service_pb2_grpc.add_MemoryServiceServicer_to_server, self._memory)
        registry.add(vector_index_service_pb2_grpc.add_VectorIndexServiceServicer_to_server, VectorIndexServicer())
        registry.add(
            memory_backend_service_pb2_grpc.add_MemoryBackendServiceServicer_to_server, MemoryBackendServicer()
        )

    async def start(self) -> None:
        """Start removing expired memories."""
        self._sweeper = asyncio.create_task(self._sweep())

    async def drain(self) -> None:
        """Stop removing expired memories; calls go on."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None

    async def close(self) -> None:
        """Release everything."""
        await self.drain()

    async def _sweep(self) -> None:
        while True:
            try:
                removed = await self._store.sweep(utc_now())
                if removed:
                    _log.info("expired_memories_removed", count=removed)
            except Exception:  # noqa: BLE001
                # The next round tries again; reads leave out what has expired all the same.
                _log.exception("sweep_failed")
            await asyncio.sleep(self._sweep_seconds)


class _OneStore:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def of(self, group_id: str, kind: MemoryKind) -> MemoryStore:  # noqa: ARG002
        return self._store


def build(settings: MemorySettings, runtime: Runtime) -> MemoryService:
    """Return the service."""
    return MemoryService(settings, runtime)
