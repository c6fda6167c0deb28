"""WorkerService at the edge."""

import asyncio
from collections.abc import AsyncIterator

from coxswain.orchestrator.v1 import worker_pb2 as pb
from coxswain.orchestrator.v1.worker_service_pb2_grpc import WorkerServiceServicer
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.orchestrator.messages.workers import hint_from_proto, hint_to_proto, worker_to_proto
from services.orchestrator.usecases.ports import ToolGateway
from services.orchestrator.usecases.workers import Workers


class WorkerServicer(WorkerServiceServicer):
    """Worker hosts, and hints from and to them."""

    def __init__(self, workers: Workers, gateway: ToolGateway) -> None:
        self._workers = workers
        self._gateway = gateway

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        """See the proto."""
        alive, gateway = await asyncio.gather(self._workers.alive(), self._gateway.release())
        releases = await self._workers.releases([lease.executor_id for lease in alive])
        # Hosts serve all groups: what they are called and when they last said that they live is no member's business.
        shown = alive if current_principal().platform_admin else ()
        return pb.ListWorkersResponse(
            workers=[worker_to_proto(lease, releases.get(lease.executor_id, "")) for lease in shown],
            worker_count=len(alive),
            worker_releases=sorted({releases.get(lease.executor_id, "") for lease in alive}),
            tool_gateway_serving=gateway is not None,
            tool_gateway_release=gateway or "",
        )

    async def SubscribeHints(
        self, request: pb.SubscribeHintsRequest, context: Context
    ) -> AsyncIterator[pb.SubscribeHintsResponse]:
        """See the proto."""
        with self._workers.listening() as subscription:
            # Says that nothing is missed from here on; the first hint may be far away.
            await context.send_initial_metadata(())
            while True:
                for hint in await self._workers.next_hints(subscription):
                    yield pb.SubscribeHintsResponse(hint=hint_to_proto(hint))

    async def PublishHint(self, request: pb.PublishHintRequest, context: Context) -> pb.PublishHintResponse:
        """See the proto."""
        hint = hint_from_proto(request.hint)
        if hint is not None:
            self._workers.publish(hint)
        return pb.PublishHintResponse()
