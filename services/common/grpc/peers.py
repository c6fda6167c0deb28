"""Channels to the other services.

Each call carries this service's token, the principal it is made for, the request id, the trace it belongs to, and no
more time than the caller has left.
"""

import functools
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from services.common.errors import DeadlineExceeded
from services.common.grpc.access import read_access
from services.common.grpc.call import outgoing_call
from services.common.grpc.renewed_channel import RenewedChannel
from services.common.grpc.tls import ChannelTls
from services.common.identity.authenticator import PRINCIPAL, REQUEST_ID, SERVICE
from services.common.identity.service_identity import ServiceIdentity
from services.common.settings import message_bytes, service_of
from services.common.tracing.spans import TRACEPARENT, current_span


class Peers:
    """Opens one channel to each service, when it is first needed."""

    def __init__(
        self,
        addresses: Mapping[str, str],
        identity: ServiceIdentity,
        *,
        timeout_seconds: float,
        max_message_bytes: int,
        tls: ChannelTls | None = None,
    ) -> None:
        """`addresses` maps a service to its gRPC target; channels use `tls`, where given."""
        self._addresses = addresses
        self._identity = identity
        self._timeout_seconds = timeout_seconds
        self._max_message_bytes = max_message_bytes
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, service: str) -> grpc.aio.Channel:
        """Return the channel to a service."""
        if service not in self._channels:
            self._channels[service] = self._open(service)
        return self._channels[service]

    def _open(self, service: str) -> grpc.aio.Channel:
        target = self._addresses[service]
        prepare = functools.partial(self._prepare, service)
        interceptors = [_UnaryInterceptor(prepare), _StreamInterceptor(prepare)]
        limit = message_bytes(service, self._max_message_bytes)
        options = [
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            ("grpc.service_config", service_config(service)),
            # A peer that was away is found again soon after it is back; by itself gRPC waits for up to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.keepalive_time_ms", 15_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            # While calls are sent, gRPC asks by pings of its own, and by itself waits a minute for their answers.
            ("grpc.http2.ping_timeout_ms", 10_000),
        ]
        if self._tls is not None and not target.startswith("unix:"):
            return RenewedChannel(
                self._tls,
                lambda credentials: grpc.aio.secure_channel(
                    target, credentials, options=options, interceptors=interceptors
                ),
            )
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)

    def _prepare(
        self, service: str, details: grpc.aio.ClientCallDetails, *, stream: bool
    ) -> grpc.aio.ClientCallDetails:
        request_id, principal_token, remaining = outgoing_call(service)
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add(SERVICE, self._identity.token_for(service_of(service)))
        if principal_token:
            metadata.add(PRINCIPAL, principal_token)
        if request_id:
            metadata.add(REQUEST_ID, request_id)
        if traceparent := current_span().traceparent:
            metadata.add(TRACEPARENT, traceparent)
        # A stream may last as long as its caller; a unary call without a limit of its own gets the default.
        limits = [limit for limit in (details.timeout, remaining) if limit is not None]
        timeout = min(limits) if limits else (None if stream else self._timeout_seconds)
        if timeout is not None and timeout <= 0:
            raise DeadlineExceeded("no time was left to ask another service", metadata={"dependency": service})
        return grpc.aio.ClientCallDetails(
            method=details.method,
            timeout=timeout,
            metadata=metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()


_Prepare = Callable[..., grpc.aio.ClientCallDetails]


class _UnaryInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, prepare: _Prepare) -> None:
        self._prepare = prepare

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        return await continuation(self._prepare(client_call_details, stream=False), request)


class _StreamInterceptor(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, prepare: _Prepare) -> None:
        self._prepare = prepare

    async def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        return await continuation(self._prepare(client_call_details, stream=True), request)


@functools.cache
def service_config(name: str) -> str:
    """Return the gRPC service config (JSON) for calls to a service: round robin over replicas that say they serve, and
    retries of what may be repeated.

    The options of its methods decide that; those of a stream, which may have begun, never let it.
    """
    repeatable = [
        {"service": service.full_name, "method": method.name}
        for service in service_descriptors(name)
        for method in service.methods
        if read_access(method).repeatable and not method.server_streaming
    ]
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": ""},
            "methodConfig": [{"name": repeatable, "retryPolicy": policy}] if repeatable else [],
        }
    )


def service_descriptors(name: str) -> Iterator[ServiceDescriptor]:
    """Yield what a service of ours serves, from every service file of its package."""
    package = importlib.import_module(f"coxswain.{service_of(name)}.v1")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if module.name.endswith("_service_pb2"):
            yield from importlib.import_module(module.name).DESCRIPTOR.services_by_name.values()
