"""The listeners of a process: a public one for callers, an internal one for services."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from services.common.grpc.access import ForeignService, read_access
from services.common.grpc.arrivals import Arrivals
from services.common.grpc.capacity import Capacity, health_streams
from services.common.grpc.gone_clients import log_gone_clients_quietly
from services.common.grpc.group_traffic import GroupTraffic
from services.common.grpc.health import HealthServicer
from services.common.grpc.method import Method
from services.common.grpc.pipeline import Pipeline
from services.common.grpc.reflection import add_reflection
from services.common.grpc.request_reading import RequestReader
from services.common.identity.authenticator import Authenticator
from services.common.settings import CommonSettings

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
# Longer than any call waits for a process that stands still, as on a machine that was paused.
_LONGEST_UNREAD_SECONDS = 3600
_UNREAD_BYTES = 16 * 1024
# One takes some 15 KiB.
_WAITING_FOR_EACH_PLACE = 5


class Registry(Protocol):
    """Where a service registers its servicers."""

    def add(
        self,
        add_to_server: Callable[[Any, Any], None],
        servicer: object,
        foreign: ForeignService | None = None,
    ) -> None:
        """Register a servicer with the generated `add_XServicer_to_server` function.

        `foreign` says of another protocol's service what options say of our own.

        Raises:
            ValueError: a method lacks one of the options every method carries, or is missing in `foreign`.
        """
        ...


class Listener:
    """One gRPC server, its health and its reflection."""

    def __init__(
        self,
        settings: CommonSettings,
        authenticator: Authenticator,
        *,
        internal: bool,
        traffic: GroupTraffic | None = None,
        shares_port: bool = False,
    ) -> None:
        """`traffic` is shared by the listeners of a process, and with `shares_port` the port by several processes."""
        self.internal = internal
        self._arrivals = Arrivals()
        self._reader = RequestReader(settings.max_message_bytes)
        self._pipeline = Pipeline(
            authenticator,
            internal=internal,
            stream_check_seconds=max(1.0, settings.principal_cache_seconds),
            max_message_bytes=settings.max_message_bytes,
            arrivals=self._arrivals,
            reader=self._reader,
            capacity=Capacity.of(
                calls=settings.max_concurrent_calls,
                group_calls=settings.max_group_calls,
                streams=settings.max_open_streams,
                group_streams=settings.max_group_streams,
                subject_streams=settings.max_subject_streams,
            ),
            traffic=traffic,
        )
        self._methods: dict[str, list[str]] = {}
        log_gone_clients_quietly()
        self._health = HealthServicer(health_streams(), RequestReader())
        self.server = grpc.aio.server(
            options=(
                # Off unless it is asked for, or a second process would share the port silently.
                ("grpc.so_reuseport", int(shares_port)),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.max_metadata_size", 64 * 1024),
                *_bounds_on_waiting_calls(settings, internal=internal),
                # What a stream may send before its call is let in. gRPC takes the rest of a message when it is read.
                ("grpc.http2.lookahead_bytes", _UNREAD_BYTES),
                # Or windows grow by what a client makes of the time between its answers, to any size.
                ("grpc.http2.bdp_probe", 0),
                # By itself, gRPC cancels without a word what has waited 30 s to be looked at.
                ("grpc.server_max_unrequested_time_in_server", _LONGEST_UNREAD_SECONDS),
                # Makes clients look addresses up again now and then, so that new replicas get their share.
                ("grpc.max_connection_age_ms", 10 * 60 * 1000),
                ("grpc.max_connection_age_grace_ms", 60 * 60 * 1000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
            # No limit here, where one would count everybody's calls, streams and health checks together, and refuse
            # without a word of what to do: see `Capacity`.
            maximum_concurrent_rpcs=None,
        )
        self._health.add_to(self.server)

    def add(
        self,
        add_to_server: Callable[[Any, Any], None],
        servicer: object,
        foreign: ForeignService | None = None,
    ) -> None:
        """Register a servicer, every method bound to the pipeline; see `Registry`."""
        # Generated code imports the files of its messages, not the service's own, whose options are read here.
        importlib.import_module(add_to_server.__module__.removesuffix("_grpc"))
        add_to_server(servicer, _Binder(self, foreign))

    def bind(self, service_name: str, handlers: Mapping[str, Handler], foreign: ForeignService | None = None) -> None:
        """Register the handlers of one service; internal methods are left out on the public listener."""
        descriptor: ServiceDescriptor = Default().FindServiceByName(service_name)
        bound = {}
        for name, handler in handlers.items():
            method = _describe(descriptor, name, foreign)
            if method.access.internal and not self.internal:
                continue
            bound[name] = self._bind_method(method, handler)
        if bound:
            self._methods[service_name] = list(bound)
            self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service_name, bound),))
            # gRPC takes one call after the other in: of each method by itself with this, so that no method's calls wait
            # behind all those of another one.
            self.server.add_registered_method_handlers(service_name, bound)

    def _bind_method(self, method: Method, handler: Handler) -> Handler:
        # Requests arrive as bytes, and responses leave as bytes: decoding and encoding are steps of the pipeline, so
        # that their failures have a proper status. So is reading of requests that stand alone: see `request_reading`.
        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(
                cast("Any", self._pipeline.unary(method, cast("Any", handler.unary_unary)))
            )
        if handler.unary_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                cast("Any", self._pipeline.server_stream(method, cast("Any", handler.unary_stream)))
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                cast("Any", self._pipeline.both_streams(method, cast("Any", handler.stream_stream)))
            )
        raise ValueError(f"{method.path} streams its requests alone, which no pipeline is made for")

    async def start(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Serve on an address and return its port (0 for a UNIX socket).

        Raises:
            RuntimeError: the address is taken.
        """
        add_reflection(self.server, self._methods, self._reader, everything=self.internal)
        port = (
            self.server.add_insecure_port(address)
            if credentials is None
            else self.server.add_secure_port(address, credentials)
        )
        await self.server.start()
        return port if not address.startswith("unix:") else 0

    async def set_serving(self, serving: bool) -> None:
        """Report every service and the whole to health checks."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._methods):
            await self._health.set(name, status)

    async def stop(self, grace: float) -> None:
        """Take calls until no more come, then refuse them; wait up to `grace` seconds for running ones.

        Without any grace, all ends at once.
        """
        await self._health.enter_graceful_shutdown()
        if grace:
            await self._arrivals.end(grace)
        await self.server.stop(grace)


class Listeners:
    """Registers with several listeners at once."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners

    def add(
        self,
        add_to_server: Callable[[Any, Any], None],
        servicer: object,
        foreign: ForeignService | None = None,
    ) -> None:
        """Register a servicer with each listener; see `Registry`."""
        for listener in self._listeners:
            listener.add(add_to_server, servicer, foreign)


class _Binder:
    """Stands in for a server in generated registration code, which passes it plain handlers."""

    def __init__(self, listener: Listener, foreign: ForeignService | None) -> None:
        self._listener = listener
        self._foreign = foreign

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Generated code calls both registrations; the other one has the names."""

    def add_registered_method_handlers(self, service_name: str, handlers: Mapping[str, Handler]) -> None:
        self._listener.bind(service_name, handlers, self._foreign)


def _bounds_on_waiting_calls(settings: CommonSettings, *, internal: bool) -> list[tuple[str, int]]:
    """Return how many calls may wait to be looked at, in the words of gRPC.

    Beyond the first number it cancels some at random, whoever sent them, and beyond the second one all. It counts calls
    that their clients have reset as well, which anybody can send by the thousand. So many only come from many
    connections, as gRPC refuses what a connection has open, or has reset in the meantime, beyond its own bound.
    """
    most = _WAITING_FOR_EACH_PLACE * settings.max_concurrent_calls
    bounds = [
        ("grpc.server.max_pending_requests", most),
        ("grpc.server.max_pending_requests_hard_limit", 2 * most),
    ]
    # Services send all their calls to another one on a single connection.
    if not internal:
        # A call is still counted for a moment when its client has the answer and may begin the next one, so a client
        # that always has as many open as it may is refused some. It has to be more than clients need.
        bounds += [("grpc.max_concurrent_streams", settings.max_connection_calls), ("grpc.http.overload_protection", 1)]
    return bounds


def _describe(descriptor: ServiceDescriptor, name: str, foreign: ForeignService | None) -> Method:
    method = descriptor.methods_by_name[name]
    return Method(
        path=f"/{descriptor.full_name}/{name}",
        service=descriptor.full_name.split(".")[1] if foreign is None else foreign.owner,
        access=read_access(method) if foreign is None else foreign.access(method),
        request_type=GetMessageClass(method.input_type),
        foreign=foreign is not None,
    )
