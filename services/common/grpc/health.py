"""Health checks, watched by no more clients than there is room for."""

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from services.common.errors import ResourceExhausted
from services.common.grpc.capacity import AnonymousStreams
from services.common.grpc.status import failure_metadata, to_status


class HealthServicer(health.aio.HealthServicer):
    """`grpc.health.v1.Health`. Checks are never refused: what decides whether a process lives has to be answered."""

    def __init__(self, streams: AnonymousStreams) -> None:
        super().__init__()
        self._streams = streams

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the protocol's name
        """See the protocol."""
        try:
            with self._streams.one_for(context.peer()):
                await super().Watch(request, context)
        except ResourceExhausted as error:
            await abort(context, error)


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", error: ResourceExhausted) -> None:
    """End a call that is not bound to the pipeline with the status of an error."""
    code, status = to_status(error, "")
    await context.abort(code, status.message, failure_metadata(error, status))
