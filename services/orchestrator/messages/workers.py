"""Workers and hints: domain to messages and back."""

from coxswain.orchestrator.v1 import worker_pb2
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.lease import Lease


def hint_to_proto(hint: Hint) -> worker_pb2.Hint:
    """Return the message of a hint that is not RESYNC."""
    return worker_pb2.Hint(
        kind=enum_to_proto(worker_pb2.HintKind, hint.kind),
        execution_id=hint.execution_id,
        last_sequence=hint.last_sequence,
        group_id=hint.group_id,
    )


def hint_from_proto(message: worker_pb2.Hint) -> Hint | None:
    """Return the hint of a message, or None for a kind this release does not know."""
    try:
        kind = enum_from_proto(HintKind, worker_pb2.HintKind, message.kind)
    except InvalidArgument:
        return None
    return Hint(kind, message.execution_id, message.last_sequence, message.group_id)


def worker_to_proto(lease: Lease, release: str) -> worker_pb2.Worker:
    """Return a worker host as callers see it. `release` is empty when it does not say."""
    message = worker_pb2.Worker(executor_id=lease.executor_id, release=release)
    message.start_time.FromNanoseconds(int(lease.started_at * 1e9))
    message.lease_expire_time.FromNanoseconds(int(lease.expires_at * 1e9))
    return message
