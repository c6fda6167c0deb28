"""Filters of executions: requests to domain."""

from coxswain.orchestrator.v1 import execution_pb2
from services.common.grpc.enums import enum_from_proto
from services.common.grpc.times import optional_timestamp_from_proto
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.domain.execution_filter import ExecutionFilter


def execution_filter_from_proto(message: execution_pb2.ListExecutionsRequest) -> ExecutionFilter:
    """Return which executions a caller wants.

    Raises:
        InvalidArgument: a time is outside of the years 1 to 9999.
    """
    return ExecutionFilter(
        crew_id=message.crew_id,
        schedule_id=message.schedule_id,
        states=frozenset(
            enum_from_proto(ExecutionState, execution_pb2.ExecutionState, state) for state in message.states
        ),
        labels=dict(message.labels),
        subject=message.subject,
        min_created_at=optional_timestamp_from_proto(message, "min_create_time"),
        max_created_at=optional_timestamp_from_proto(message, "max_create_time"),
        min_ended_at=optional_timestamp_from_proto(message, "min_end_time"),
        max_ended_at=optional_timestamp_from_proto(message, "max_end_time"),
        error_reason=message.error_reason,
        resumed_from=message.resumed_from,
        batch_id=message.batch_id,
    )
