"""Usage and budgets."""

from dataclasses import fields

from coxswain.models.v1 import usage_pb2 as pb
from services.common.clock import utc_now
from services.common.grpc.enums import enum_from_proto
from services.common.grpc.times import optional_timestamp_from_proto, timestamp_to_proto
from services.models.domain.budget import (
    NO_LIMITS,
    Budget,
    BudgetAlert,
    Measure,
    Period,
    Scope,
    ScopedBudget,
    Spending,
)
from services.models.domain.usage import CREW_LABEL, UsageGrouping, UsageQuery, UsageSum

_ROW_FIELDS = {
    UsageGrouping.MODEL: "model",
    UsageGrouping.EXECUTION: "execution_id",
    UsageGrouping.CREW: "crew",
    UsageGrouping.SUBJECT: "subject",
    UsageGrouping.DAY: "day",
    UsageGrouping.LABEL: "label_value",
}


def usage_query_from_proto(request: pb.QueryUsageRequest) -> UsageQuery:
    """Return which calls to sum, and by what.

    Raises:
        InvalidArgument: a time is outside of the years 1 to 9999.
    """
    crew = {CREW_LABEL: request.crew} if request.crew else {}
    return UsageQuery(
        group_by=tuple(
            enum_from_proto(UsageGrouping, pb.UsageGrouping, grouping)
            for grouping in request.group_by or [pb.USAGE_GROUPING_MODEL]
        ),
        start=optional_timestamp_from_proto(request, "start_time"),
        end=optional_timestamp_from_proto(request, "end_time"),
        execution_id=request.execution_id,
        model=request.model,
        subject=request.subject,
        label_key=request.label_key,
        labels=dict(request.labels) | crew,
    )


def usage_row_to_proto(query: UsageQuery, row: UsageSum) -> pb.UsageRow:
    """Return the usage of the calls that agree in what was summed by."""
    used = row.usage
    message = pb.UsageRow(
        calls=row.calls,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cost=used.cost,
        cached_input_tokens=used.cached_input_tokens,
        cache_write_input_tokens=used.cache_write_input_tokens,
        reasoning_tokens=used.reasoning_tokens,
        estimated_calls=row.estimated_calls,
    )
    for grouping, key in zip(query.group_by, row.keys, strict=True):
        setattr(message, _ROW_FIELDS[grouping], key)
    return message


def scope_from_proto(scope: pb.BudgetScope) -> Scope:
    """Return which calls limits are about."""
    return Scope(scope.model, scope.subject)


def budget_from_proto(budget: pb.Budget) -> Budget:
    """Return limits."""
    return Budget(**{each.name: getattr(budget, each.name) for each in fields(Budget)})


def budget_to_proto(budget: Budget) -> pb.Budget:
    """Return limits as callers see them."""
    return pb.Budget(**{each.name: getattr(budget, each.name) for each in fields(Budget)})


def budget_state_to_proto(budget: ScopedBudget, spending: Spending) -> pb.GetBudgetResponse:
    """Return the limits of a scope, and what it has used."""
    now = utc_now()
    return pb.GetBudgetResponse(
        budget=budget_to_proto(budget.own),
        monthly_cost=spending.used(Measure.COST, Period.MONTH, now),
        ceiling=_unless_none(budget.ceiling),
        effective=budget_to_proto(budget.effective),
        daily_cost=spending.used(Measure.COST, Period.DAY, now),
        tokens_today=int(spending.used(Measure.TOKENS, Period.DAY, now)),
        tokens_this_month=int(spending.used(Measure.TOKENS, Period.MONTH, now)),
    )


def scoped_budget_to_proto(budget: ScopedBudget) -> pb.ScopedBudget:
    """Return the limits of a scope, without what it has used."""
    return pb.ScopedBudget(
        scope=_scope_to_proto(budget.scope), budget=_unless_none(budget.own), ceiling=_unless_none(budget.ceiling)
    )


def budget_alert_to_proto(alert: BudgetAlert) -> pb.BudgetAlert:
    """Return an alert as callers see it."""
    return pb.BudgetAlert(
        scope=_scope_to_proto(alert.scope),
        limit=alert.limit,
        period=alert.period,
        allowed=alert.allowed,
        used=alert.used,
        alert_share=alert.alert_share,
        ceiling=alert.ceiling,
        create_time=timestamp_to_proto(alert.created_at),
        sequence=alert.sequence,
    )


def _scope_to_proto(scope: Scope) -> pb.BudgetScope:
    return pb.BudgetScope(model=scope.model, subject=scope.subject)


def _unless_none(budget: Budget) -> pb.Budget | None:
    return None if budget == NO_LIMITS else budget_to_proto(budget)
