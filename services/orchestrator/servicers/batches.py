"""BatchService at the edge."""

import asyncio

from coxswain.orchestrator.v1 import batch_pb2 as pb
from coxswain.orchestrator.v1.batch_service_pb2_grpc import BatchServiceServicer
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.orchestrator.messages.batches import batch_inputs_from_proto, batch_to_proto
from services.orchestrator.messages.executions import start_from_proto
from services.orchestrator.usecases.batches import Batches


class BatchServicer(BatchServiceServicer):
    """Batches of groups."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    async def StartBatch(self, request: pb.StartBatchRequest, context: Context) -> pb.StartBatchResponse:
        """See the proto."""
        principal = current_principal()
        progress = await self._batches.start(
            principal,
            start_from_proto(request.start, "start."),
            await asyncio.to_thread(batch_inputs_from_proto, request),
            request.max_parallel,
            request_key(principal, request),
        )
        return pb.StartBatchResponse(batch=batch_to_proto(progress))

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.GetBatchResponse:
        """See the proto."""
        return pb.GetBatchResponse(batch=batch_to_proto(await self._batches.get(current_principal(), request.id)))

    async def ListBatches(self, request: pb.ListBatchesRequest, context: Context) -> pb.ListBatchesResponse:
        """See the proto."""
        page = await self._batches.page(current_principal(), request.page_size, request.page_token)
        return pb.ListBatchesResponse(batches=map(batch_to_proto, page.items), next_page_token=page.next_page_token)

    async def CancelBatch(self, request: pb.CancelBatchRequest, context: Context) -> pb.CancelBatchResponse:
        """See the proto."""
        return pb.CancelBatchResponse(batch=batch_to_proto(await self._batches.cancel(current_principal(), request.id)))

    async def DeleteBatch(self, request: pb.DeleteBatchRequest, context: Context) -> pb.DeleteBatchResponse:
        """See the proto."""
        deleted, executions = await self._batches.delete(current_principal(), request.id)
        return pb.DeleteBatchResponse(deleted=deleted, deleted_executions=executions)
