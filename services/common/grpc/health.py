"""Health checks, watched by no more clients than there is room for."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2

from services.common.errors import CoxswainError
from services.common.grpc.capacity import AnonymousStreams
from services.common.grpc.decoding import parse
from services.common.grpc.handler import Context
from services.common.grpc.request_reading import RequestReader
from services.common.grpc.status import failure_metadata, to_status
from services.common.release import METADATA_KEY, RELEASE

_SERVICE = "grpc.health.v1.Health"


class HealthServicer(health.aio.HealthServicer):
    """`grpc.health.v1.Health`, which also says of which release the process is.

    Checks that come whole are never refused: what decides whether a process lives has to be answered.
    """

    def __init__(self, streams: AnonymousStreams, requests: RequestReader) -> None:
        """`requests` reads nothing else, or others who are slow would count among those who check."""
        super().__init__()
        self._streams = streams
        self._requests = requests
        self._connections: set[str] = set()
        """Those with one watcher at least, as gRPC names them."""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the methods."""
        # Their types are those of an earlier version, without `List`.
        protocol: Any = health_pb2
        listed: Any = self
        check, listing = protocol.HealthCheckRequest, protocol.HealthListRequest
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Check": grpc.stream_unary_rpc_method_handler(self._bound(self.Check, check), None, _bytes_of),
            "List": grpc.stream_unary_rpc_method_handler(self._bound(listed.List, listing), None, _bytes_of),
            "Watch": grpc.stream_stream_rpc_method_handler(self._bound(self.Watch, check), None, _bytes_of),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        server.add_registered_method_handlers(_SERVICE, handlers)

    def _bound(self, method: Callable[[Any, Any], Awaitable[Any]], request_type: type[Message]) -> Any:
        async def serve(messages: AsyncIterator[bytes], context: Context) -> Any:
            try:
                request = parse(request_type, await self._requests.read_of_stranger(messages))
                return await method(request, context)
            except CoxswainError as error:
                await abort(context, error)

        return serve

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """See the protocol."""
        context.set_trailing_metadata(((METADATA_KEY, RELEASE),))
        return await super().Check(request, context)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the protocol's name
        """See the protocol.

        Raises:
            ResourceExhausted: OVERLOADED, as many watch as may.
        """
        with self._place(context.peer()):
            await super().Watch(request, context)

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


async def abort(context: Context, error: CoxswainError) -> None:
    """End a call that is not bound to the pipeline with the status of an error."""
    code, status = to_status(error, "")
    await context.abort(code, status.message, failure_metadata(error, status))


def _bytes_of(response: Message) -> bytes:
    return response.SerializeToString()
