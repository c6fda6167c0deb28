"""What it means that an agent did not answer as it should."""

import grpc

from services.common.errors import PermissionDenied
from services.orchestrator.tool_gateway.adapters.grpc_peer.channels import PeerUnreachable
from services.orchestrator.tool_gateway.adapters.grpc_peer.statuses import REFUSALS
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, ToolResult

Code = grpc.StatusCode

CANNOT_BE_ASKED = frozenset({*REFUSALS, Code.UNAUTHENTICATED, Code.OUT_OF_RANGE, Code.DATA_LOSS})
"""Statuses with which asking again does not help."""
NO_CONNECTION = (PeerUnreachable, PermissionDenied, CallRefused, NotSent)
"""What is raised before anything is sent."""
_NOT_READ_HERE = "client: received message larger than max"
_NOT_READ_THERE = ("received message larger than max", "sent message larger than max", "message exceeds maximum size")
"""In the texts of the statuses by which implementations of gRPC refuse a message."""


class TooLarge(Exception):
    """An answer has more bytes than are read."""


def answer_is_too_large(error: grpc.aio.AioRpcError) -> bool:
    """Whether gRPC here has refused to read an answer."""
    return error.code() is Code.RESOURCE_EXHAUSTED and _NOT_READ_HERE in _words(error)


def message_is_too_large(error: grpc.aio.AioRpcError) -> bool:
    """Whether a message was not sent, or not read by the agent, because of its size."""
    is_refused = error.code() is Code.RESOURCE_EXHAUSTED and not answer_is_too_large(error)
    return is_refused and any(words in _words(error) for words in _NOT_READ_THERE)


def too_large(name: str) -> ToolResult:
    """Return what the model is told of an agent whose answer is too large to be read."""
    return ToolResult(
        f"The agent {name} was sent the message, and what its task holds is larger than is read here. "
        "Do not send it again.",
        is_error=True,
    )


def _words(error: grpc.aio.AioRpcError) -> str:
    return (error.details() or "").lower()
