"""`coxswain.models.v1.UsageService`."""

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.models.v1 import usage_pb2 as pb
from coxswain.models.v1.usage_service_pb2_grpc import UsageServiceServicer
from services.common.errors import InvalidArgument
from services.common.grpc.call import current_principal
from services.models.domain.usage import Budget, UsageGrouping, UsageQuery
from services.models.usecases.usage import Budgets, UsageReports


class UsageServicer(UsageServiceServicer):
    """Usage and budgets over gRPC."""

    def __init__(self, reports: UsageReports, budgets: Budgets) -> None:
        self._reports = reports
        self._budgets = budgets

    async def QueryUsage(self, request: pb.QueryUsageRequest, context: Any) -> pb.QueryUsageResponse:
        """Sum usage."""
        by_execution = request.grouping == pb.USAGE_GROUPING_EXECUTION
        query = UsageQuery(
            grouping=UsageGrouping.EXECUTION if by_execution else UsageGrouping.MODEL,
            start=_moment(request.start_time, "start_time") if request.HasField("start_time") else None,
            end=_moment(request.end_time, "end_time") if request.HasField("end_time") else None,
            execution_id=request.execution_id,
        )
        sums = await self._reports.query(current_principal(), query)
        return pb.QueryUsageResponse(
            rows=[
                pb.UsageRow(
                    model="" if by_execution else row.key,
                    execution_id=row.key if by_execution else "",
                    calls=row.calls,
                    input_tokens=row.input_tokens,
                    output_tokens=row.output_tokens,
                    cost=row.cost,
                )
                for row in sums
            ]
        )

    async def SetBudget(self, request: pb.SetBudgetRequest, context: Any) -> pb.SetBudgetResponse:
        """Set limits."""
        budget = Budget(request.budget.monthly_cost_limit, request.budget.calls_per_minute)
        return pb.SetBudgetResponse(budget=_budget(await self._budgets.set(current_principal(), budget)))

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Any) -> pb.GetBudgetResponse:
        """Return limits and what is spent."""
        budget, spent = await self._budgets.get(current_principal())
        return pb.GetBudgetResponse(budget=_budget(budget), monthly_cost=spent)


def _budget(budget: Budget) -> pb.Budget:
    return pb.Budget(monthly_cost_limit=budget.monthly_cost_limit, calls_per_minute=budget.calls_per_minute)


def _moment(timestamp: Timestamp, field: str) -> datetime:
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument.field(field, "outside of the years 1 to 9999") from error
