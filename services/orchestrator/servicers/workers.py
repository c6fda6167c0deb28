"""WorkerService at the edge: who is alive, and the hint bus for hosts that the database cannot reach with hints."""

import contextlib
from collections.abc import AsyncIterator, Iterator

from coxswain.orchestrator.v1 import worker_pb2 as pb
from coxswain.orchestrator.v1.worker_service_pb2_grpc import WorkerServiceServicer
from services.common.errors import Unavailable
from services.common.grpc.handler import Context
from services.orchestrator.domain.hint import HintKind
from services.orchestrator.hints.bus import HintBus, Subscription
from services.orchestrator.messages.workers import hint_from_proto, hint_to_proto
from services.orchestrator.repositories.leases import Lease, Leases


class WorkerServicer(WorkerServiceServicer):
    """Worker hosts, and hints from and to them."""

    def __init__(self, leases: Leases, bus: HintBus) -> None:
        self._leases = leases
        self._bus = bus
        self._listening: set[Subscription] = set()
        self._draining = False

    def drain(self) -> None:
        """End the streams: their hosts listen elsewhere, or again."""
        self._draining = True
        for subscription in self._listening:
            subscription.wake()

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        """See the proto."""
        return pb.ListWorkersResponse(workers=map(_worker_message, await self._leases.alive()))

    async def SubscribeHints(
        self, request: pb.SubscribeHintsRequest, context: Context
    ) -> AsyncIterator[pb.SubscribeHintsResponse]:
        """See the proto."""
        with self._listen() as subscription:
            self._refuse_when_draining()
            # Says that nothing is missed from here on; the first hint may be far away.
            await context.send_initial_metadata(())
            while True:
                self._refuse_when_draining()
                for hint in await subscription.take():
                    if hint.kind is HintKind.RESYNC:
                        raise Unavailable(
                            "hints may have been lost; subscribe again and read everything", retry_after=0.1
                        )
                    yield pb.SubscribeHintsResponse(hint=hint_to_proto(hint))

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise Unavailable("this replica is shutting down", reason="OVERLOADED", retry_after=0.2)

    async def PublishHint(self, request: pb.PublishHintRequest, context: Context) -> pb.PublishHintResponse:
        """See the proto."""
        hint = hint_from_proto(request.hint)
        if hint is not None:
            self._bus.publish(hint)
        return pb.PublishHintResponse()

    @contextlib.contextmanager
    def _listen(self) -> Iterator[Subscription]:
        with self._bus.subscribe(HintKind.EXECUTION_READY, HintKind.CANCEL_REQUESTED) as subscription:
            self._listening.add(subscription)
            try:
                yield subscription
            finally:
                self._listening.discard(subscription)


def _worker_message(lease: Lease) -> pb.Worker:
    message = pb.Worker(executor_id=lease.executor_id)
    message.start_time.FromNanoseconds(int(lease.started_at * 1e9))
    message.lease_expire_time.FromNanoseconds(int(lease.expires_at * 1e9))
    return message
