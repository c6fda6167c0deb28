"""Limits on what groups use, and what is held against them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from services.common.identity.group_limits import GroupLimits
from services.models.domain.usage import Usage


class Period(StrEnum):
    """A span of the calendar in UTC, at whose end a limit begins anew."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"

    def of(self, moment: datetime) -> str:
        """Return the name of the span that a moment (in UTC) is in; names of later spans sort after it."""
        return moment.isoformat()[: _NAME_LENGTHS[self]]

    def remaining(self, moment: datetime) -> float:
        """Return the seconds until the span's end."""
        if self is Period.MINUTE:
            end = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
        elif self is Period.DAY:
            end = moment.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        else:
            first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            end = (first + timedelta(days=32)).replace(day=1)
        return max(0.1, (end - moment).total_seconds())


_NAME_LENGTHS = {Period.MINUTE: len("2026-01-31T12:30"), Period.DAY: len("2026-01-31"), Period.MONTH: len("2026-01")}


class Measure(StrEnum):
    """What is limited."""

    COST = "cost"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class SumLimit:
    """A limit on a sum over a span of time."""

    name: str
    """The field of `Budget` that holds its value."""
    measure: Measure
    period: Period


SUM_LIMITS = (
    SumLimit("monthly_cost_limit", Measure.COST, Period.MONTH),
    SumLimit("daily_cost_limit", Measure.COST, Period.DAY),
    SumLimit("cost_per_minute", Measure.COST, Period.MINUTE),
    SumLimit("tokens_per_minute", Measure.TOKENS, Period.MINUTE),
    SumLimit("tokens_per_day", Measure.TOKENS, Period.DAY),
    SumLimit("tokens_per_month", Measure.TOKENS, Period.MONTH),
)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits; 0 means none."""

    monthly_cost_limit: float = 0.0
    """US dollars in a calendar month (UTC)."""
    calls_per_minute: int = 0
    daily_cost_limit: float = 0.0
    """US dollars in a day (UTC)."""
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    tokens_per_month: int = 0
    alert_share: float = 0.0
    """From 0 (no alerts) to 1: the share of a day's or a month's limit at which an alert is stored."""
    cost_per_minute: float = 0.0
    """US dollars in a calendar minute."""

    def value(self, limit: SumLimit) -> float:
        """Return what is allowed; 0 means no limit."""
        allowed: float = getattr(self, limit.name)
        return allowed

    @property
    def cost_limit(self) -> str:
        """The name of a limit on cost that is set; empty when there is none, and prices do not matter."""
        return next((limit.name for limit in SUM_LIMITS if limit.measure is Measure.COST and self.value(limit)), "")

    @property
    def limits_sums(self) -> bool:
        """Whether it has to be known what has been used."""
        return any(self.value(limit) for limit in SUM_LIMITS)


NO_LIMITS = Budget()


@dataclass(frozen=True, slots=True)
class Scope:
    """Which of a group's calls a budget is about; empty parts mean all."""

    model: str = ""
    subject: str = ""


WHOLE_GROUP = Scope()


def scopes_of(model: str, subject: str) -> tuple[Scope, ...]:
    """Return every scope that a call is in."""
    return WHOLE_GROUP, Scope(model), Scope(subject=subject), Scope(model, subject)


class SetBy(StrEnum):
    """Where a limit comes from."""

    GROUP = "group"
    """The group's admins, by SetBudget."""
    OPERATOR = "operator"
    """The operator, by SetBudgetCeiling."""
    GROUP_LIMITS = "group_limits"
    """Auth's limits of the group, of which auth knows who set them."""


@dataclass(frozen=True, slots=True)
class ScopedBudget:
    """The limits of one scope: those that the group has set, and those that the operator has set for it."""

    scope: Scope
    own: Budget = NO_LIMITS
    ceiling: Budget = NO_LIMITS
    """What nobody lifts by SetBudget: `group_limits` included."""
    group_limits: Budget = NO_LIMITS
    """What auth's limits of the group allow, which the operator or the group's admins have set."""

    @property
    def effective(self) -> Budget:
        """The smaller one of each limit."""
        return _smaller_budget(self.own, self.ceiling)

    def under(self, group_limits: Budget) -> "ScopedBudget":
        """Return the same limits below auth's limits of the group."""
        return replace(self, ceiling=_smaller_budget(self.ceiling, group_limits), group_limits=group_limits)

    @property
    def too_large(self) -> list[str]:
        """The limits that the group has set above the operator's."""
        names = ("calls_per_minute", *(limit.name for limit in SUM_LIMITS))
        return [name for name in names if 0 < getattr(self.ceiling, name) < getattr(self.own, name)]

    def set_by(self, name: str) -> SetBy:
        """Return whose limit is the one that counts."""
        own, ceiling = getattr(self.own, name), getattr(self.ceiling, name)
        return SetBy.GROUP if not ceiling or 0 < own <= ceiling else self.ceiling_set_by(name)

    def ceiling_set_by(self, name: str) -> SetBy:
        """Return where a ceiling comes from that there is."""
        is_groups = getattr(self.group_limits, name) == getattr(self.ceiling, name)
        return SetBy.GROUP_LIMITS if is_groups else SetBy.OPERATOR


def under_group_limits(budgets: Sequence[ScopedBudget], limits: GroupLimits) -> list[ScopedBudget]:
    """Return budgets with auth's limits of the group as a further ceiling on all its calls."""
    ceiling = Budget(
        monthly_cost_limit=limits.monthly_cost_ceiling or 0.0, calls_per_minute=limits.model_calls_per_minute or 0
    )
    if ceiling == NO_LIMITS:
        return list(budgets)
    whole = next((budget for budget in budgets if budget.scope == WHOLE_GROUP), ScopedBudget(WHOLE_GROUP))
    return [whole.under(ceiling), *(budget for budget in budgets if budget.scope != WHOLE_GROUP)]


def _smaller_budget(one: Budget, other: Budget) -> Budget:
    smaller: dict[str, Any] = {
        each.name: _smaller(getattr(one, each.name), getattr(other, each.name)) for each in fields(Budget)
    }
    return Budget(**smaller)


def _smaller(one: float, other: float) -> float:
    return min(one, other) if one and other else one or other


@dataclass(frozen=True, slots=True)
class Sums:
    """Costs in US dollars and tokens of some calls."""

    cost: float = 0.0
    tokens: int = 0


@dataclass(slots=True)
class _PeriodSum:
    name: str = ""
    cost: float = 0.0
    tokens: int = 0

    def add(self, name: str, cost: float, tokens: int) -> None:
        if name > self.name:
            self.name, self.cost, self.tokens = name, 0.0, 0
        if name == self.name:
            self.cost += cost
            self.tokens += tokens


@dataclass(slots=True)
class Spending:
    """What the calls of one scope have used in the present minute, day and month, and what calls under way may use."""

    _sums: dict[Period, _PeriodSum] = field(default_factory=lambda: {period: _PeriodSum() for period in Period})
    _reserved: Sums = field(default_factory=Sums)
    _reservations: int = 0

    def add(self, moment: datetime, usage: Usage) -> None:
        """Count a call that began at a moment; one of a span that is over counts no more."""
        for period, total in self._sums.items():
            total.add(period.of(moment), usage.cost, usage.input_tokens + usage.output_tokens)

    def replace(self, moment: datetime, sums: dict[Period, Sums]) -> None:
        """Begin with what is known of the spans that `moment` is in; reservations stay."""
        for period, total in sums.items():
            self._sums[period] = _PeriodSum(period.of(moment), total.cost, total.tokens)

    def used(self, measure: Measure, period: Period, moment: datetime) -> float:
        """Return what was used in the span that `moment` is in."""
        total = self._sums[period]
        if total.name != period.of(moment):
            return 0
        return total.cost if measure is Measure.COST else total.tokens

    def reserved(self, measure: Measure) -> float:
        """Return what calls under way may use."""
        return self._reserved.cost if measure is Measure.COST else self._reserved.tokens

    def reserve(self, expected: Sums) -> None:
        """Set aside what a call may use."""
        self._reservations += 1
        self._reserved = Sums(self._reserved.cost + expected.cost, self._reserved.tokens + expected.tokens)

    def release(self, expected: Sums) -> None:
        """Give back what was set aside for a call."""
        self._reservations -= 1
        # Sums of floating-point numbers drift: with the last call they begin anew.
        left = Sums(self._reserved.cost - expected.cost, self._reserved.tokens - expected.tokens)
        self._reserved = left if self._reservations else Sums()

    @property
    def idle(self) -> bool:
        """Whether no call is under way."""
        return not self._reservations


@dataclass(frozen=True, slots=True)
class BudgetAlert:
    """A share of a limit was used."""

    id: str
    scope: Scope
    limit: str
    """The field of `Budget`."""
    period: str
    """The day or month (UTC), as 2026-01-31 or 2026-01."""
    allowed: float
    used: float
    alert_share: float
    ceiling: bool
    """Whether the limit is the operator's."""
    created_at: datetime
    sequence: int = 0
    """Its position among the group's alerts; 0 until it is stored."""
