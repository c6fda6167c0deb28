"""For how long executions are kept: messages to domain and back."""

from coxswain.orchestrator.v1 import execution_pb2
from services.common.grpc.times import duration_to_proto
from services.orchestrator.domain.retention import Retention


def retention_to_proto(retention: Retention) -> execution_pb2.ExecutionRetention:
    """Return what counts for a group as callers see it."""
    return execution_pb2.ExecutionRetention(
        keep_for=duration_to_proto(retention.seconds or None), chosen=retention.chosen
    )


def choice_from_proto(message: execution_pb2.SetExecutionRetentionRequest) -> float | None:
    """Return the seconds that a group chooses: 0 for ever, None for the operator's default."""
    match message.WhichOneof("choice"):
        case "keep_for":
            return message.keep_for.ToNanoseconds() / 1e9
        case "keep_forever":
            return 0.0
        case _:
            return None
