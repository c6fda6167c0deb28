"""Calls of any public method as anybody, and everything that comes back."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from tests.e2e.tenants.references import public_rpcs
from tests.support.every_rpc import service_of

CALL_SECONDS = 120.0
_DETAILS = "grpc-status-details-bin"
_KINDS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.ResourceInfo,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.QuotaFailure,
)


@dataclass(frozen=True)
class Outcome:
    """What a call came to."""

    code: str
    """Name of the status code."""
    text: str = ""
    details: Sequence[dict[str, Any]] = ()
    """The details of the error, but for the id of the request."""
    answers: Sequence[Message] = ()
    raw: Sequence[bytes] = field(default=(), repr=False)
    """All that was sent back, as it was sent."""

    @property
    def reason(self) -> str:
        return next((str(detail["reason"]) for detail in self.details if "reason" in detail), "")


class Api:
    """The public listeners of an installation, called as one person."""

    def __init__(self, channel_of: Callable[[str], grpc.Channel], token: str) -> None:
        """`channel_of` gives the channel to a service: `auth`, `models` and so on."""
        self.channel_of = channel_of
        self.metadata = (("authorization", f"Bearer {token}"),)

    def call(
        self, name: str, request: Message | Sequence[Message], *, take: int = 0, headers: Sequence[tuple[str, str]] = ()
    ) -> Outcome:
        """Call a method; a stream is ended after `take` answers, or read to its end."""
        requests = [request] if isinstance(request, Message) else request
        method = public_rpcs()[name]
        stub = self._stub(name)
        metadata = (*self.metadata, *headers)
        answers: list[Message] = []
        try:
            if method.server_streaming:
                stream = stub(
                    iter(requests) if method.client_streaming else requests[0], metadata=metadata, timeout=CALL_SECONDS
                )
                for answer in stream:
                    answers.append(answer)
                    if len(answers) == take:
                        stream.cancel()
                        break
            else:
                answers.append(stub(requests[0], metadata=metadata, timeout=CALL_SECONDS))
        except grpc.RpcError as error:
            return _failure(error, answers)
        return Outcome("OK", answers=answers, raw=[answer.SerializeToString() for answer in answers])

    def ok(self, name: str, /, *, take: int = 0, **fields: Any) -> Any:
        """Call a method that has to succeed; return its answer, the last one of a stream.

        Raises:
            AssertionError: it has failed.
        """
        outcome = self.call(name, message_of(name, **fields), take=take)
        assert outcome.code == "OK", f"{name}: {outcome}"
        return outcome.answers[-1] if outcome.answers else None

    @functools.cache  # noqa: B019 - lives as long as the tests
    def _stub(self, name: str) -> Any:
        method = public_rpcs()[name]
        channel = self.channel_of(service_of(method))
        open_call: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
        if method.client_streaming:
            open_call = channel.stream_stream
        return open_call(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )


def message_of(name: str, /, **fields: Any) -> Message:
    """Return a request of a method."""
    return GetMessageClass(public_rpcs()[name].input_type)(**fields)


def _failure(error: Any, answers: Sequence[Message]) -> Outcome:
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers.get(_DETAILS, b""))
    details = []
    for packed in status.details:
        for kind in _KINDS:
            if packed.Is(kind.DESCRIPTOR):
                detail = kind()
                packed.Unpack(detail)
                details.append(MessageToDict(detail))
    sent = [answer.SerializeToString() for answer in answers]
    sent += [(error.details() or "").encode(), *(trailers[key] for key in trailers if isinstance(trailers[key], bytes))]
    return Outcome(error.code().name, error.details() or "", details, answers, sent)
