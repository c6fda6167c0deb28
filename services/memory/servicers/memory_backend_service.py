"""`coxswain.memory.v1.MemoryBackendService` at the edge."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from coxswain.memory.v1 import memory_backend_service_pb2 as pb
from coxswain.memory.v1 import memory_backend_service_pb2_grpc
from services.common.errors import Unimplemented

Context = grpc.aio.ServicerContext[Any, Any]


class MemoryBackendServicer(memory_backend_service_pb2_grpc.MemoryBackendServiceServicer):
    """Converts, calls the use case, converts back."""

    async def CreateMemoryBackend(
        self, request: pb.CreateMemoryBackendRequest, context: Context
    ) -> pb.CreateMemoryBackendResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("memory backends other than the default")

    async def GetMemoryBackend(
        self, request: pb.GetMemoryBackendRequest, context: Context
    ) -> pb.GetMemoryBackendResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("memory backends other than the default")

    async def ListMemoryBackends(
        self, request: pb.ListMemoryBackendsRequest, context: Context
    ) -> pb.ListMemoryBackendsResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("memory backends other than the default")

    async def UpdateMemoryBackend(
        self, request: pb.UpdateMemoryBackendRequest, context: Context
    ) -> pb.UpdateMemoryBackendResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("memory backends other than the default")

    async def DeleteMemoryBackend(
        self, request: pb.DeleteMemoryBackendRequest, context: Context
    ) -> pb.DeleteMemoryBackendResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("memory backends other than the default")

    async def Activate(self, request: pb.ActivateRequest, context: Context) -> pb.ActivateResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("memory backends other than the default")

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> pb.VerifyResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("memory backends other than the default")

    async def Provision(self, request: pb.ProvisionRequest, context: Context) -> AsyncIterator[pb.ProvisionResponse]:
        """Not part of this installation yet."""
        raise Unimplemented.part("memory backends other than the default")
        yield  # type: ignore[unreachable]
