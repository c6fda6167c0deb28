"""Channels of grpc whose calls are prepared and whose failures are typed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

import grpc
from google.protobuf.message import Message

from coxswain.client.connection import Connection, with_request_id
from coxswain.client.later import errors, policy

MessageT = TypeVar("MessageT", bound=Message)


def open_blocking_channels(connection: Connection) -> dict[str, grpc.Channel]:
    """The channel of each service, by its name, whose calls carry what the connection says and raise CoxswainError.

    Services at one address share a channel. Raises ValueError for addresses that are none, or not complete.
    """
    of_services = connection.of_services()
    channels = {each: _open_channel(each) for each in dict.fromkeys(of_services.values())}
    return {service: channels[each] for service, each in of_services.items()}


def call_once(connection: Connection, path: str, request: Message, response: type[MessageT]) -> MessageT:
    """Make one call and return its answer, in less time than a Client takes to load. It is not repeated.

    ``path`` names the method: ``/coxswain.orchestrator.v1.CrewService/ListCrews``. Raises grpc.RpcError, and ValueError
    for addresses that are none, or not complete.
    """
    service = connection.of_services()[path.split(".")[1]]
    with _open(service, service.transport_options) as channel:
        method = channel.unary_unary(
            path, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        answer: MessageT = method(request, timeout=connection.timeout, metadata=connection.metadata(None))
        return answer


def blocking_trailing_metadata(method: Any, request: Any, timeout: float) -> dict[str, str]:
    """Call a method and return what text metadata came after its answer. Raises CoxswainError."""
    _, call = method.with_call(request, timeout=timeout)
    return {key: value for key, value in call.trailing_metadata() or () if isinstance(value, str)}


def _open_channel(connection: Connection) -> grpc.Channel:
    return grpc.intercept_channel(_open(connection, connection.options), _Calls(connection))


def _open(connection: Connection, options: list[tuple[str, Any]]) -> grpc.Channel:
    credentials = connection.credentials
    if credentials is None:
        return grpc.insecure_channel(connection.target, options=options)
    return grpc.secure_channel(connection.target, credentials, options=options)


@dataclass
class _Details(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Calls(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _details(self, details: grpc.ClientCallDetails) -> grpc.ClientCallDetails:
        timeout = details.timeout
        if timeout is None:
            timeout = policy.default_timeout(details.method, self._connection.timeout)
        given = cast("list[tuple[str, str | bytes]]", list(details.metadata or ()))
        return _Details(
            details.method,
            timeout,
            self._connection.metadata(given),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        return _Answer(continuation(self._details(client_call_details), with_request_id(request)))

    def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        return _Answers(continuation(self._details(client_call_details), with_request_id(request)))

    def intercept_stream_stream(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return _Answers(continuation(self._details(client_call_details), request_iterator))


class _Answer:
    """A call whose failure is a CoxswainError."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._call.result(timeout)
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = self._call.exception(timeout)
        return errors.from_rpc_error(error) if isinstance(error, grpc.RpcError) else error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class _Answers:
    """A stream whose failure is a CoxswainError."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)
