"""`coxswain.memory.v1.MemoryBackendService` at the edge."""

from collections.abc import AsyncIterator
from dataclasses import replace

from coxswain.memory.v1 import memory_backend_pb2 as pb
from coxswain.memory.v1 import memory_backend_service_pb2_grpc
from services.common.db.idempotency import request_hash
from services.common.errors import InvalidArgument
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.common.grpc.validation import validate
from services.common.paging import decode_page_token, encode_page_token, page_size
from services.memory.domain import EmbeddingSpace, MemoryBackend
from services.memory.servicers.backend_convert import backend_to_domain, backend_to_message, merge
from services.memory.usecases.memory_backends import MemoryBackendUseCases


class MemoryBackendServicer(memory_backend_service_pb2_grpc.MemoryBackendServiceServicer):
    """Converts, calls the use case, converts back."""

    def __init__(self, backends: MemoryBackendUseCases, default_space: EmbeddingSpace) -> None:
        """`default_space` is that of Databricks backends that name none."""
        self._backends = backends
        self._default_space = default_space

    async def CreateMemoryBackend(
        self, request: pb.CreateMemoryBackendRequest, context: Context
    ) -> pb.CreateMemoryBackendResponse:
        """Add a backend."""
        draft = backend_to_domain(request.backend, self._default_space)
        digest = request_hash(request, "request_id")
        created = await self._backends.create(current_principal(), draft, request.request_id, digest)
        return pb.CreateMemoryBackendResponse(backend=backend_to_message(created))

    async def GetMemoryBackend(
        self, request: pb.GetMemoryBackendRequest, context: Context
    ) -> pb.GetMemoryBackendResponse:
        """Return a backend."""
        found = await self._backends.get(current_principal(), request.id)
        return pb.GetMemoryBackendResponse(backend=backend_to_message(found))

    async def ListMemoryBackends(
        self, request: pb.ListMemoryBackendsRequest, context: Context
    ) -> pb.ListMemoryBackendsResponse:
        """Return a page of backends."""
        principal = current_principal()
        listing = {"group": principal.group_id}
        token = decode_page_token(request.page_token, "memory_backends", listing)
        size = page_size(request.page_size)
        found = await self._backends.page(principal, size + 1, str(token[0]) if token else None)
        response = pb.ListMemoryBackendsResponse(backends=[backend_to_message(backend) for backend in found[:size]])
        if len(found) > size:
            response.next_page_token = encode_page_token("memory_backends", listing, [found[size - 1].name])
        return response

    async def UpdateMemoryBackend(
        self, request: pb.UpdateMemoryBackendRequest, context: Context
    ) -> pb.UpdateMemoryBackendResponse:
        """Change a backend."""
        if not request.backend.id:
            raise InvalidArgument.field("backend.id", "name the backend to change")

        def edit(present: MemoryBackend) -> MemoryBackend:
            merged = merge(backend_to_message(present), request.backend, request.update_mask)
            validate(merged, "backend")
            return replace(backend_to_domain(merged, self._default_space), created_at=present.created_at)

        changed = await self._backends.update(current_principal(), request.backend.id, edit)
        return pb.UpdateMemoryBackendResponse(backend=backend_to_message(changed))

    async def DeleteMemoryBackend(
        self, request: pb.DeleteMemoryBackendRequest, context: Context
    ) -> pb.DeleteMemoryBackendResponse:
        """Remove a backend."""
        await self._backends.delete(current_principal(), request.id, request.successor_id)
        return pb.DeleteMemoryBackendResponse()

    async def ActivateMemoryBackend(
        self, request: pb.ActivateMemoryBackendRequest, context: Context
    ) -> pb.ActivateMemoryBackendResponse:
        """Make a backend the active one."""
        active = await self._backends.activate(current_principal(), request.id)
        return pb.ActivateMemoryBackendResponse(backend=None if active is None else backend_to_message(active))

    async def VerifyMemoryBackend(
        self, request: pb.VerifyMemoryBackendRequest, context: Context
    ) -> pb.VerifyMemoryBackendResponse:
        """Look at what a backend needs."""
        checks = await self._backends.verify(current_principal(), request.id)
        return pb.VerifyMemoryBackendResponse(
            ok=all(check.ok for check in checks),
            checks=[
                pb.MemoryBackendCheck(subject=check.subject, ok=check.ok, finding=check.finding, remedy=check.remedy)
                for check in checks
            ],
        )

    async def ProvisionMemoryBackend(
        self, request: pb.ProvisionMemoryBackendRequest, context: Context
    ) -> AsyncIterator[pb.ProvisionMemoryBackendResponse]:
        """Make what a backend needs."""
        async for step in self._backends.provision(current_principal(), request.id):
            yield pb.ProvisionMemoryBackendResponse(step=step.text, done=step.done, total=step.total, rate=step.rate)
