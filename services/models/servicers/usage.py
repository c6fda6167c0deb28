"""`coxswain.models.v1.UsageService`."""

from collections.abc import AsyncIterator

from coxswain.models.v1 import usage_pb2 as pb
from coxswain.models.v1.usage_service_pb2_grpc import UsageServiceServicer
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.models.servicers.messages.usage import (
    budget_alert_to_proto,
    budget_from_proto,
    budget_state_to_proto,
    budget_to_proto,
    scope_from_proto,
    scoped_budget_to_proto,
    usage_query_from_proto,
    usage_row_to_proto,
)
from services.models.usecases.budget_alert_feed import BudgetAlertFeed
from services.models.usecases.budget_alerts import BudgetAlerts
from services.models.usecases.budgets import Budgets
from services.models.usecases.usage import UsageReports


class UsageServicer(UsageServiceServicer):
    """Usage and budgets over gRPC."""

    def __init__(
        self, reports: UsageReports, budgets: Budgets, alerts: BudgetAlerts, alert_feed: BudgetAlertFeed
    ) -> None:
        self._reports = reports
        self._budgets = budgets
        self._alerts = alerts
        self._alert_feed = alert_feed

    async def QueryUsage(self, request: pb.QueryUsageRequest, context: Context) -> pb.QueryUsageResponse:
        """See the proto."""
        query = usage_query_from_proto(request)
        page = await self._reports.page(current_principal(), query, request.page_size, request.page_token)
        return pb.QueryUsageResponse(
            rows=[usage_row_to_proto(query, row) for row in page.items], next_page_token=page.next_page_token
        )

    async def SetBudget(self, request: pb.SetBudgetRequest, context: Context) -> pb.SetBudgetResponse:
        """See the proto."""
        scope = scope_from_proto(request.scope)
        budget = await self._budgets.set(current_principal(), scope, budget_from_proto(request.budget))
        return pb.SetBudgetResponse(budget=budget_to_proto(budget))

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Context) -> pb.GetBudgetResponse:
        """See the proto."""
        budget, spending = await self._budgets.get(current_principal(), scope_from_proto(request.scope))
        return budget_state_to_proto(budget, spending)

    async def ListBudgets(self, request: pb.ListBudgetsRequest, context: Context) -> pb.ListBudgetsResponse:
        """See the proto."""
        page = await self._budgets.page(current_principal(), request.page_size, request.page_token)
        return pb.ListBudgetsResponse(
            budgets=map(scoped_budget_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def DeleteBudget(self, request: pb.DeleteBudgetRequest, context: Context) -> pb.DeleteBudgetResponse:
        """See the proto."""
        await self._budgets.delete(current_principal(), scope_from_proto(request.scope))
        return pb.DeleteBudgetResponse()

    async def SetBudgetCeiling(
        self, request: pb.SetBudgetCeilingRequest, context: Context
    ) -> pb.SetBudgetCeilingResponse:
        """See the proto."""
        ceiling = budget_from_proto(request.ceiling)
        ceiling = await self._budgets.set_ceiling(request.group_id, scope_from_proto(request.scope), ceiling)
        return pb.SetBudgetCeilingResponse(ceiling=budget_to_proto(ceiling))

    async def ListBudgetAlerts(
        self, request: pb.ListBudgetAlertsRequest, context: Context
    ) -> pb.ListBudgetAlertsResponse:
        """See the proto."""
        page = await self._alerts.page(current_principal(), request.page_size, request.page_token)
        return pb.ListBudgetAlertsResponse(
            alerts=map(budget_alert_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def WatchBudgetAlerts(
        self, request: pb.WatchBudgetAlertsRequest, context: Context
    ) -> AsyncIterator[pb.WatchBudgetAlertsResponse]:
        """See the proto."""
        after = request.after_sequence if request.HasField("after_sequence") else None
        async for position, alerts in self._alert_feed.follow(current_principal(), after):
            if not alerts:
                yield pb.WatchBudgetAlertsResponse(sequence=position)
            for alert in alerts:
                yield pb.WatchBudgetAlertsResponse(sequence=alert.sequence, alert=budget_alert_to_proto(alert))
