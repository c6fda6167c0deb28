"""From the bytes of a request to a message that may be worked on."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from services.common.errors import DeadlineExceeded, InvalidArgument
from services.common.group_lines import wait_without_turn
from services.common.grpc.call import current_call
from services.common.grpc.large_messages import beside_if_large
from services.common.grpc.method import Method
from services.common.grpc.nul_check import refuse_nul
from services.common.grpc.request_reading import let_cancel
from services.common.grpc.validation import refuse_crowds, validate

RequestT = TypeVar("RequestT", bound=Message)


async def requests_of_stream(
    method: Method, messages: AsyncIterator[bytes], idle_seconds: float
) -> AsyncIterator[Message]:
    """Yield the requests of a stream, each decoded and checked as one alone would be.

    Raises:
        DeadlineExceeded: the client sends nothing any more and does not end the stream either.
    """
    while True:
        wait_without_turn()
        try:
            async with asyncio.timeout(idle_seconds):
                data = await anext(messages, None)
        except TimeoutError:
            raise DeadlineExceeded(
                f"nothing has come for {idle_seconds:g} s; begin again after what the last response counts, and send "
                "without such pauses",
                reason="STREAM_IDLE",
                metadata={"seconds": f"{idle_seconds:g}"},
            ) from None
        if data is None:
            await let_cancel()
            return
        request = await beside_if_large(len(data), decode, method, data)
        note_for_audit(method, request)
        yield request


def note_for_audit(method: Method, request: Message) -> None:
    """Keep the first request of a stream for the audit log."""
    call = current_call()
    if method.access.audited and call.request is None:
        call.request = request


def decode(method: Method, data: bytes) -> Message:
    """Return the request in some bytes.

    Raises:
        InvalidArgument: it is no such message, or breaks its rules.
    """
    request = parse(method.request_type, data)
    refuse_crowds(request, len(data))
    refuse_nul(request, data)
    validate(request)
    return request


def parse(request_type: type[RequestT], data: bytes) -> RequestT:
    """Return the message in some bytes, whatever it says.

    Raises:
        InvalidArgument: MALFORMED_MESSAGE, it is no such message.
    """
    request = request_type()
    try:
        request.ParseFromString(data)
    except DecodeError as error:
        name = request.DESCRIPTOR.full_name
        raise InvalidArgument(
            f"the request is not a valid {name}; compare your generated client with this server's reflection",
            reason="MALFORMED_MESSAGE",
            metadata={"message": name},
        ) from error
    return request
