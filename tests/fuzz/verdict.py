"""What is wrong with the outcome of a call."""

from collections.abc import Collection
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2, status_pb2

from services.common.grpc.status import DETAILS_KEY, DOMAIN
from services.orchestrator.domain.a2a_errors import DOMAIN as A2A_DOMAIN
from tests.support.exhausted import fault_of_exhausted

# What clients of usual settings take; larger trailers end a call before its status is read.
_MOST_TRAILER_BYTES = 8 * 1024
_NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED, grpc.StatusCode.DATA_LOSS}
# What grpc.aio makes of a server's status that comes while a request of a stream is still being written.
_LOST_BY_CLIENT = "Internal error from Core"


@dataclass
class Outcome:
    """How a call ended."""

    code: grpc.StatusCode
    message: str = ""
    trailers: list[tuple[str, str | bytes]] = field(default_factory=list)
    seconds: float = 0.0
    answers: int = 0
    given_up: bool = False
    """Whether it was the caller who ended it, by a cancellation or a short deadline of the plan."""
    refused_by_grpc: bool = False
    """Whether gRPC answers for it and no code of ours: requests or metadata are larger than it takes."""


def fault_of(outcome: Outcome, longest_seconds: float, *, of_a2a: bool = False) -> str:
    """Return what is wrong with an outcome, in words, or "" for nothing.

    Calls that end later than `longest_seconds` hang. Those `of_a2a` may be refused in the words of that protocol too.
    """
    if outcome.seconds > longest_seconds:
        return f"hangs: {outcome.seconds:.1f} s, {outcome.code.name}"
    if outcome.code is grpc.StatusCode.INTERNAL and outcome.message.startswith(_LOST_BY_CLIENT):
        return ""
    gave_up = {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
    if outcome.code is grpc.StatusCode.OK or (outcome.given_up and outcome.code in gave_up):
        return ""
    if outcome.code in _NEVER:
        return f"{outcome.code.name}: {outcome.message[:300]}"
    if outcome.refused_by_grpc and outcome.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ""
    size = sum(len(key) + len(value) + 32 for key, value in outcome.trailers) + len(outcome.message.encode())
    if size > _MOST_TRAILER_BYTES:
        return f"{outcome.code.name} in {size} bytes of trailers"
    return _fault_of_details(outcome, {DOMAIN, A2A_DOMAIN} if of_a2a else {DOMAIN})


def _fault_of_details(outcome: Outcome, domains: Collection[str]) -> str:
    details = [value for key, value in outcome.trailers if key == DETAILS_KEY]
    if not details:
        return f"{outcome.code.name} without details: {outcome.message[:300]}"
    packed = details[0]
    status = status_pb2.Status.FromString(packed if isinstance(packed, bytes) else packed.encode())
    info = error_details_pb2.ErrorInfo()
    if not any(detail.Is(info.DESCRIPTOR) and detail.Unpack(info) for detail in status.details):
        return f"{outcome.code.name} without ErrorInfo: {outcome.message[:300]}"
    if info.domain not in domains or not info.reason:
        return f"{outcome.code.name} with an ErrorInfo of nobody: {info}"
    return fault_of_exhausted(status)
