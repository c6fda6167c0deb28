"""`coxswain.memory.v1.MemoryBackendService` at the edge."""

from collections.abc import AsyncIterator

from coxswain.memory.v1 import memory_backend_pb2 as pb
from coxswain.memory.v1 import memory_backend_service_pb2_grpc
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.common.resource_key import ResourceKey, key_from_proto
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.servicers.messages.memory_backends import (
    backend_from_proto,
    backend_to_proto,
    changed_backend,
    check_to_proto,
)
from services.memory.usecases.backend_checks import BackendChecks
from services.memory.usecases.memory_backends import MemoryBackends


class MemoryBackendServicer(memory_backend_service_pb2_grpc.MemoryBackendServiceServicer):
    """Configurations of where a group keeps its memories."""

    def __init__(self, backends: MemoryBackends, checks: BackendChecks, default_space: EmbeddingSpace) -> None:
        """`default_space` is that of Databricks backends that name none."""
        self._backends = backends
        self._checks = checks
        self._default_space = default_space

    async def CreateMemoryBackend(
        self, request: pb.CreateMemoryBackendRequest, context: Context
    ) -> pb.CreateMemoryBackendResponse:
        """See the proto."""
        principal = current_principal()
        draft = backend_from_proto(request.backend, self._default_space)
        created = await self._backends.create(principal, draft, request_key(principal, request))
        return pb.CreateMemoryBackendResponse(backend=backend_to_proto(created))

    async def GetMemoryBackend(
        self, request: pb.GetMemoryBackendRequest, context: Context
    ) -> pb.GetMemoryBackendResponse:
        """See the proto."""
        found = await self._backends.get(current_principal(), key_from_proto(request))
        return pb.GetMemoryBackendResponse(backend=backend_to_proto(found))

    async def ListMemoryBackends(
        self, request: pb.ListMemoryBackendsRequest, context: Context
    ) -> pb.ListMemoryBackendsResponse:
        """See the proto."""
        page = await self._backends.page(current_principal(), request.page_size, request.page_token)
        return pb.ListMemoryBackendsResponse(
            backends=[backend_to_proto(backend) for backend in page.items], next_page_token=page.next_page_token
        )

    async def UpdateMemoryBackend(
        self, request: pb.UpdateMemoryBackendRequest, context: Context
    ) -> pb.UpdateMemoryBackendResponse:
        """See the proto."""
        changed = await self._backends.update(
            current_principal(),
            key_from_proto(request),
            lambda present: changed_backend(present, request.backend, request.update_mask, self._default_space),
        )
        return pb.UpdateMemoryBackendResponse(backend=backend_to_proto(changed))

    async def DeleteMemoryBackend(
        self, request: pb.DeleteMemoryBackendRequest, context: Context
    ) -> pb.DeleteMemoryBackendResponse:
        """See the proto."""
        successor = None
        if request.successor_id or request.successor_name:
            successor = ResourceKey(request.successor_id, request.successor_name)
        await self._backends.delete(current_principal(), key_from_proto(request), successor)
        return pb.DeleteMemoryBackendResponse()

    async def ActivateMemoryBackend(
        self, request: pb.ActivateMemoryBackendRequest, context: Context
    ) -> pb.ActivateMemoryBackendResponse:
        """See the proto."""
        active = await self._backends.activate(current_principal(), key_from_proto(request))
        return pb.ActivateMemoryBackendResponse(backend=None if active is None else backend_to_proto(active))

    async def VerifyMemoryBackend(
        self, request: pb.VerifyMemoryBackendRequest, context: Context
    ) -> pb.VerifyMemoryBackendResponse:
        """See the proto."""
        checks = await self._checks.verify(current_principal(), key_from_proto(request))
        return pb.VerifyMemoryBackendResponse(
            ok=all(check.ok for check in checks), checks=[check_to_proto(check) for check in checks]
        )

    async def ProvisionMemoryBackend(
        self, request: pb.ProvisionMemoryBackendRequest, context: Context
    ) -> AsyncIterator[pb.ProvisionMemoryBackendResponse]:
        """See the proto."""
        async for step in self._backends.provision(current_principal(), key_from_proto(request)):
            yield pb.ProvisionMemoryBackendResponse(step=step.text, done=step.done, total=step.total, rate=step.rate)
