"""Hints between a worker host and the API process."""

import grpc

from coxswain.orchestrator.v1 import worker_pb2, worker_service_pb2_grpc
from services.common.background import BackgroundTasks
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import LocalHintBus, Subscription
from services.orchestrator.hints.connection import Connected, keep_connected
from services.orchestrator.messages.workers import hint_from_proto, hint_to_proto


class RemoteHintBus(LocalHintBus):
    """Carries hints between a worker host and the API process."""

    def __init__(self, channel: grpc.aio.Channel, executor_id: str) -> None:
        """`channel` leads to the orchestrator's internal listener."""
        super().__init__()
        self._stub: worker_service_pb2_grpc.WorkerServiceAsyncStub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self._executor_id = executor_id
        self._outgoing = Subscription([kind for kind in HintKind if kind is not HintKind.RESYNC])
        self._background = BackgroundTasks()

    async def start(self) -> None:
        """See `HintBus`."""
        self._background.start(keep_connected("orchestrator", self._receive))
        self._background.start(keep_connected("orchestrator", self._send))

    def publish(self, hint: Hint) -> None:
        """See `HintBus`."""
        self._outgoing.offer(hint)

    async def close(self) -> None:
        """See `HintBus`."""
        await self._background.stop()

    async def _receive(self, connected: Connected) -> None:
        request = worker_pb2.SubscribeHintsRequest(executor_id=self._executor_id)
        call = self._stub.SubscribeHints(request)
        await call.initial_metadata()
        connected()
        super().publish(Hint(HintKind.RESYNC))
        async for response in call:
            hint = hint_from_proto(response.hint)
            if hint is not None:
                super().publish(hint)

    async def _send(self, connected: Connected) -> None:
        while True:
            hints = await self._outgoing.take()
            try:
                while hints:
                    # RESYNC only says that this side lost hints: the readers' own reads cover them.
                    if hints[0].kind is not HintKind.RESYNC:
                        await self._stub.PublishHint(worker_pb2.PublishHintRequest(hint=hint_to_proto(hints[0])))
                        connected()
                    hints.pop(0)
            finally:
                for hint in hints:
                    self._outgoing.offer(hint)
