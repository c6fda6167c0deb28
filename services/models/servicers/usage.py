"""`coxswain.models.v1.UsageService`."""

from coxswain.models.v1 import usage_pb2 as pb
from coxswain.models.v1.usage_service_pb2_grpc import UsageServiceServicer
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.models.servicers.messages.usage import (
    budget_from_proto,
    budget_to_proto,
    usage_query_from_proto,
    usage_row_to_proto,
)
from services.models.usecases.budgets import Budgets
from services.models.usecases.usage import UsageReports


class UsageServicer(UsageServiceServicer):
    """Usage and budgets over gRPC."""

    def __init__(self, reports: UsageReports, budgets: Budgets) -> None:
        self._reports = reports
        self._budgets = budgets

    async def QueryUsage(self, request: pb.QueryUsageRequest, context: Context) -> pb.QueryUsageResponse:
        """See the proto."""
        query = usage_query_from_proto(request)
        sums = await self._reports.query(current_principal(), query)
        return pb.QueryUsageResponse(rows=[usage_row_to_proto(query.grouping, row) for row in sums])

    async def SetBudget(self, request: pb.SetBudgetRequest, context: Context) -> pb.SetBudgetResponse:
        """See the proto."""
        budget = await self._budgets.set(current_principal(), budget_from_proto(request.budget))
        return pb.SetBudgetResponse(budget=budget_to_proto(budget))

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Context) -> pb.GetBudgetResponse:
        """See the proto."""
        budget, spent = await self._budgets.get(current_principal())
        return pb.GetBudgetResponse(budget=budget_to_proto(budget), monthly_cost=spent)
