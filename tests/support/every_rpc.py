"""Every RPC of the product by its descriptor: called as anybody, with all that comes back kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from coxswain.common.v1 import access_pb2
from tests.support.descriptors import product_services

Metadata = Sequence[tuple[str, str]]
CALL_SECONDS = 120.0


def every_rpc() -> dict[str, MethodDescriptor]:
    """Return the methods of all services by `Service.Method`, without those that others implement for the product."""
    return {
        f"{service.name}.{method.name}": method
        for service in product_services()
        if service.file.package != "coxswain.tools.v1"
        for method in service.methods
    }


def is_internal(method: MethodDescriptor) -> bool:
    """Whether only services may call it."""
    return bool(method.GetOptions().Extensions[access_pb2.access] == access_pb2.ACCESS_INTERNAL)


def callers_of(method: MethodDescriptor) -> list[str]:
    """Return the services that may call an internal method."""
    return list(method.GetOptions().Extensions[access_pb2.callers])


def service_of(method: MethodDescriptor) -> str:
    """Return which of the product's services serves it: `auth`, `models` and so on."""
    return str(method.containing_service.file.package.split(".")[1])


def listener_of(method: MethodDescriptor) -> str:
    """Return whose internal listener serves it: that of its service, or of a process beside it."""
    return "tools" if method.containing_service.name == "ToolGatewayService" else service_of(method)


@dataclass
class Caller:
    """Calls methods and keeps what came back, fields that are there to hold a secret left out."""

    public: grpc.Channel
    internal: Mapping[str, grpc.Channel]
    """The internal listener of each service, and of the tool gateway."""
    secret_fields: Mapping[str, str] = field(default_factory=dict)
    """By method, the field of the answer that holds a secret; it is kept in `secrets` instead."""
    secrets: list[str] = field(default_factory=list)
    told: list[tuple[str, bytes]] = field(default_factory=list)
    """By method: answers, as bytes and as text, metadata, errors with their details."""
    succeeded: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._methods = every_rpc()

    def call(
        self,
        name: str,
        metadata: Metadata,
        request: Message | bytes | Sequence[Message],
        *,
        public: bool = False,
        take: int = 0,
    ) -> list[Any] | str:
        """Return a call's answers (one where it does not stream), or what it was refused with.

        A method that streams requests gets this one alone, or all of several. `public` sends the call of an internal
        method to the public listener; a stream is ended after `take` answers.
        """
        method = self._methods[name]
        channel = self.internal[listener_of(method)] if is_internal(method) and not public else self.public
        open_call: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
        if method.client_streaming:
            open_call = channel.stream_stream
        stub = open_call(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=_serialized,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        answers: list[Any] = []
        try:
            if method.server_streaming:
                several = [request] if isinstance(request, Message | bytes) else request
                sent = iter(several) if method.client_streaming else request
                stream = stub(sent, metadata=metadata, timeout=CALL_SECONDS)
                for answer in stream:
                    answers.append(answer)
                    if len(answers) == take:
                        stream.cancel()
                        break
                self._keep_metadata(name, stream)
            else:
                answer, call = stub.with_call(request, metadata=metadata, timeout=CALL_SECONDS)
                answers.append(answer)
                self._keep_metadata(name, call)
        except grpc.RpcError as error:
            failure: Any = error
            self.refused.add(name)
            self._keep_metadata(name, failure)
            self.told += [(name, (failure.details() or "").encode()), (name, repr(failure).encode())]
            return f"{failure.code().name}: {failure.details()}"
        finally:
            for answer in answers:
                self._keep(name, answer)
        self.succeeded.add(name)
        return answers

    def message(self, name: str, /, **fields: Any) -> Message:
        """Return a request of a method."""
        return GetMessageClass(self._methods[name].input_type)(**fields)

    def _keep(self, name: str, answer: Message) -> None:
        kept = type(answer)()
        kept.CopyFrom(answer)
        if name in self.secret_fields:
            # An execution without a webhook has no key for it.
            if secret := getattr(answer, self.secret_fields[name]):
                self.secrets.append(secret)
            kept.ClearField(self.secret_fields[name])
        self.told += [(name, kept.SerializeToString()), (name, str(kept).encode())]

    def _keep_metadata(self, name: str, call: Any) -> None:
        for _, value in (*(call.initial_metadata() or ()), *(call.trailing_metadata() or ())):
            self.told.append((name, value if isinstance(value, bytes) else value.encode()))


def _serialized(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
