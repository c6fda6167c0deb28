"""Batches: requests to domain, and domain to messages."""

from typing import Any

from coxswain.orchestrator.v1 import batch_pb2, execution_pb2
from services.common.grpc.enums import enum_to_proto
from services.common.grpc.json_values import from_struct
from services.common.grpc.times import timestamp_to_proto
from services.orchestrator.domain.batch import BatchProgress
from services.orchestrator.events import error_to_proto
from services.orchestrator.messages.executions import usage_to_proto


def batch_inputs_from_proto(message: batch_pb2.StartBatchRequest) -> list[dict[str, Any]]:
    """Return the inputs of each execution. There are thousands: call it in a thread.

    Raises:
        InvalidArgument: an input is not a valid JSON value, or a whole number beyond 2^53.
    """
    return [from_struct(f"inputs[{index}]", item, exact=True) for index, item in enumerate(message.inputs)]


def batch_to_proto(progress: BatchProgress) -> batch_pb2.Batch:
    """Return a batch as callers see it."""
    batch = progress.batch
    return batch_pb2.Batch(
        id=batch.id,
        crew_id=batch.start.crew_id,
        crew_revision=batch.start.crew_revision,
        crew_name=batch.crew_name,
        total=batch.total,
        pending=batch.total - batch.started,
        counts=[
            batch_pb2.BatchStateCount(state=enum_to_proto(execution_pb2.ExecutionState, state), count=count)
            for state, count in sorted(progress.counts.items())
        ],
        usage=usage_to_proto(progress.usage),
        failures=[
            batch_pb2.BatchFailure(
                execution_id=failure.execution_id, index=failure.index, error=error_to_proto(failure.error)
            )
            for failure in progress.failures
        ],
        max_parallel=batch.max_parallel,
        subject=batch.subject,
        labels=batch.start.labels,
        create_time=timestamp_to_proto(batch.created_at),
        end_time=timestamp_to_proto(batch.ended_at),
        cancel_request_time=timestamp_to_proto(batch.cancel_requested_at),
        error=None if batch.error is None else error_to_proto(batch.error),
        pending_reason=None if progress.pending_reason is None else error_to_proto(progress.pending_reason),
    )
