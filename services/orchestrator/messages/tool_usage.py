"""Usage of tools: messages to domain and back."""

from coxswain.orchestrator.v1 import tool_usage_pb2 as pb
from services.common.grpc.enums import enum_from_proto
from services.common.grpc.times import duration_to_proto, optional_timestamp_from_proto
from services.orchestrator.domain.tool_usage import (
    ToolCallOutcome,
    ToolUsageGrouping,
    ToolUsageQuery,
    ToolUsageSum,
)

_ROW_FIELDS = {
    ToolUsageGrouping.EXECUTION: "execution_id",
    ToolUsageGrouping.LABEL: "label_value",
}


def tool_usage_query_from_proto(request: pb.QueryToolUsageRequest) -> ToolUsageQuery:
    """Return which calls to sum, and by what.

    Raises:
        InvalidArgument: a time is outside of the years 1 to 9999.
    """
    return ToolUsageQuery(
        group_by=tuple(
            enum_from_proto(ToolUsageGrouping, pb.ToolUsageGrouping, grouping)
            for grouping in request.group_by or [pb.TOOL_USAGE_GROUPING_TOOL]
        ),
        start=optional_timestamp_from_proto(request, "start_time"),
        end=optional_timestamp_from_proto(request, "end_time"),
        label_key=request.label_key,
        labels=dict(request.labels),
        tool=request.tool,
        source=request.source,
        crew=request.crew,
        execution_id=request.execution_id,
        subject=request.subject,
        outcome=enum_from_proto(ToolCallOutcome, pb.ToolCallOutcome, request.outcome),
    )


def tool_usage_row_to_proto(query: ToolUsageQuery, row: ToolUsageSum) -> pb.ToolUsageRow:
    """Return the usage of the calls that agree in what was summed by."""
    message = pb.ToolUsageRow(
        calls=row.calls,
        failed_calls=row.outcomes[ToolCallOutcome.FAILED],
        refused_calls=row.outcomes[ToolCallOutcome.REFUSED],
        unknown_calls=row.outcomes[ToolCallOutcome.UNKNOWN],
        cancelled_calls=row.outcomes[ToolCallOutcome.CANCELLED],
        duration=duration_to_proto(row.seconds),
        argument_bytes=row.argument_bytes,
        result_bytes=row.result_bytes,
        cost=row.cost,
    )
    for grouping, key in zip(query.group_by, row.keys, strict=True):
        setattr(message, _ROW_FIELDS.get(grouping, grouping.value), key)
    return message
