"""Channels of grpc.aio whose calls are prepared and whose failures are typed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from coxswain.client.connection import Connection, with_request_id
from coxswain.client.errors import from_rpc_error
from coxswain.client.policy import default_timeout


def open_aio_channels(connection: Connection) -> dict[str, grpc.aio.Channel]:
    """The channel of each service, by its name, whose calls carry what the connection says and raise CoxswainError.

    Services at one address share a channel. Raises ValueError for addresses that are none, or not complete.
    """
    of_services = connection.of_services()
    channels = {each: _open_channel(each) for each in dict.fromkeys(of_services.values())}
    return {service: channels[each] for service, each in of_services.items()}


async def aio_trailing_metadata(method: Any, request: Any, timeout: float) -> dict[str, str]:
    """Call a method and return what text metadata came after its answer. Raises CoxswainError."""
    call = method(request, timeout=timeout)
    await call
    return {key: value for key, value in await call.trailing_metadata() if isinstance(value, str)}


def _open_channel(connection: Connection) -> grpc.aio.Channel:
    interceptors: list[grpc.aio.ClientInterceptor] = [
        _UnaryCalls(connection),
        _StreamCalls(connection),
        _BothStreamsCalls(connection),
    ]
    credentials = connection.credentials
    if credentials is None:
        return grpc.aio.insecure_channel(connection.target, options=connection.options, interceptors=interceptors)
    return grpc.aio.secure_channel(
        connection.target, credentials, options=connection.options, interceptors=interceptors
    )


class _Calls:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _details(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        method: str | bytes = details.method
        path = method.decode() if isinstance(method, bytes) else method
        timeout = details.timeout
        if timeout is None:
            timeout = default_timeout(path, self._connection.timeout)
        given = [(key, value) for key, value in details.metadata or ()]
        return grpc.aio.ClientCallDetails(
            method=details.method,
            timeout=timeout,
            metadata=grpc.aio.Metadata(*self._connection.metadata(given)),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


class _UnaryCalls(_Calls, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        call = await continuation(self._details(client_call_details), with_request_id(request))
        try:
            await call
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return call


class _StreamCalls(_Calls, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        return _responses(await continuation(self._details(client_call_details), with_request_id(request)))


class _BothStreamsCalls(_Calls, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return _responses(await continuation(self._details(client_call_details), request_iterator))


async def _responses(call: Any) -> AsyncIterator[Any]:
    try:
        async for response in call:
            yield response
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
