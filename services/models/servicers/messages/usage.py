"""Usage and budgets."""

from coxswain.models.v1 import usage_pb2 as pb
from services.common.grpc.enums import enum_from_proto
from services.common.grpc.times import optional_timestamp_from_proto
from services.models.domain.usage import Budget, UsageGrouping, UsageQuery, UsageSum


def usage_query_from_proto(request: pb.QueryUsageRequest) -> UsageQuery:
    """Return which calls to sum, and by what.

    Raises:
        InvalidArgument: a time is outside of the years 1 to 9999.
    """
    return UsageQuery(
        grouping=enum_from_proto(UsageGrouping, pb.UsageGrouping, request.grouping or pb.USAGE_GROUPING_MODEL),
        start=optional_timestamp_from_proto(request, "start_time"),
        end=optional_timestamp_from_proto(request, "end_time"),
        execution_id=request.execution_id,
    )


def usage_row_to_proto(grouping: UsageGrouping, row: UsageSum) -> pb.UsageRow:
    """Return the usage of one model or one execution."""
    by_model = grouping is UsageGrouping.MODEL
    return pb.UsageRow(
        model=row.key if by_model else "",
        execution_id="" if by_model else row.key,
        calls=row.calls,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cost=row.cost,
    )


def budget_from_proto(budget: pb.Budget) -> Budget:
    """Return the limits of a group."""
    return Budget(budget.monthly_cost_limit, budget.calls_per_minute)


def budget_to_proto(budget: Budget) -> pb.Budget:
    """Return the limits of a group as callers see them."""
    return pb.Budget(monthly_cost_limit=budget.monthly_cost_limit, calls_per_minute=budget.calls_per_minute)
