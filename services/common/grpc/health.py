"""Health checks, watched by no more clients than there is room for."""

import contextlib
from collections.abc import Iterator
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
        self._connections: set[str] = set()
        """Those with one watcher at least, as gRPC names them."""

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the protocol's name
        """See the protocol."""
        try:
            with self._place(context.peer()):
                await super().Watch(request, context)
        except ResourceExhausted as error:
            await abort(context, error)

    @contextlib.contextmanager
    def _place(self, peer: str) -> Iterator[None]:
        if not peer.startswith("ip") or peer in self._connections:
            with self._streams.one_for(peer):
                yield
            return
        # One costs little beside its connection, and a client that checks health does not call without.
        self._connections.add(peer)
        try:
            yield
        finally:
            self._connections.discard(peer)


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", error: ResourceExhausted) -> None:
    """End a call that is not bound to the pipeline with the status of an error."""
    code, status = to_status(error, "")
    await context.abort(code, status.message, failure_metadata(error, status))
