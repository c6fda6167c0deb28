"""The limits that groups and the operator have set on the use of models."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.cache import AsyncCache
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import FailedPrecondition, FieldViolation, InvalidArgument, ResourceExhausted
from services.common.identity.group_limits import GroupLimits
from services.common.identity.principal import Principal
from services.common.paging import Page, Pager
from services.common.quotas import how_to_raise
from services.models.domain.budget import (
    NO_LIMITS,
    SUM_LIMITS,
    WHOLE_GROUP,
    Budget,
    Measure,
    Period,
    Scope,
    ScopedBudget,
    SetBy,
    Spending,
    SumLimit,
    Sums,
    scopes_of,
    under_group_limits,
)
from services.models.domain.model import Model
from services.models.domain.usage import Usage, UsageRecord
from services.models.repositories.budgets import BudgetRepository, read_budget, read_budgets
from services.models.usecases.budget_alerts import BudgetAlerts
from services.models.usecases.ledger import Ledger

_CACHE_SIZE = 10_000
# Calls under way may give back, at any moment, what they have reserved.
_RESERVED_SECONDS = 1.0
_RAISED = {
    SetBy.GROUP: "an admin of your group can raise the limit with SetBudget",
    SetBy.OPERATOR: "the operator of this installation can raise the limit with SetBudgetCeiling",
    SetBy.GROUP_LIMITS: how_to_raise("monthly_cost_ceiling"),
}
_LIFTED = {
    SetBy.GROUP: "remove the limit",
    SetBy.OPERATOR: "ask the operator to lift the limit",
    SetBy.GROUP_LIMITS: "have the limit lifted (GetGroupLimits says who set it)",
}
_CEILINGS = {
    SetBy.OPERATOR: "the operator's ceiling",
    SetBy.GROUP_LIMITS: "the limit of your group (GetGroupLimits says who set it)",
}
# A limit for people and not for arithmetic.
_MOST_TOKENS = 2**62


@dataclass(slots=True)
class Reservation:
    """What is set aside of limits for a call that is under way."""

    _expected: Sums = field(default_factory=Sums)
    _spendings: list[Spending] = field(default_factory=list)

    def release(self) -> None:
        """Give it back; what the call used has been counted."""
        for spending in self._spendings:
            spending.release(self._expected)
        self._spendings = []


# Of calls without limits on sums.
_NOTHING_RESERVED = Reservation()


class Budgets:
    """Refuses calls that limits forbid."""

    def __init__(self, database: Database, ledger: Ledger, alerts: BudgetAlerts, max_age: float) -> None:
        """`max_age` is how many seconds limits may be remembered; 0 where other processes change them."""
        self._database = database
        self._ledger = ledger
        self._alerts = alerts
        self._cache = AsyncCache[tuple[str, str, str], list[ScopedBudget]](_CACHE_SIZE, max_age) if max_age else None
        self._pager = Pager("budgets", key_types=(str, str))

    async def admit(self, principal: Principal, model: Model, expected: Callable[[], Usage]) -> Reservation:
        """Count a call that is about to be made, and set aside what it is expected to use.

        Calls that are under way are not stopped.

        Raises:
            ResourceExhausted: a limit is reached, or what is left of it is set aside for other calls.
            FailedPrecondition: its cost is limited, and nobody knows it.
        """
        limits = await self._limits(principal, model)
        if not limits:
            return _NOTHING_RESERVED
        reservation = await self._reserve(principal, model, limits, expected)
        try:
            await self._count_call(principal.group_id, limits)
        except BaseException:
            reservation.release()
            raise
        return reservation

    async def allow(self, principal: Principal, model: Model) -> bool:
        """Return whether a call that uses nothing would be admitted. It is not counted among those of its minute."""
        try:
            limits = await self._limits(principal, model)
            (await self._reserve(principal, model, limits, Usage)).release()
        except (ResourceExhausted, FailedPrecondition):
            return False
        return True

    def spent(self, record: UsageRecord) -> None:
        """Count what a call used."""
        for scope, spending in self._ledger.add(record):
            self._alerts.check(record.group_id, scope, spending)

    async def refresh(self) -> None:
        """Read again what groups have used, with what other processes have stored.

        Raises:
            Unavailable: the database does not answer.
        """
        await self._ledger.refresh()
        for group_id, scope, spending in self._ledger.known():
            self._alerts.check(group_id, scope, spending)

    async def forget_idle(self) -> None:
        """Forget what groups have used that have not called for a while."""
        self._ledger.forget_idle()

    async def close(self) -> None:
        """End what is being read."""
        await self._ledger.close()

    async def get(self, principal: Principal, scope: Scope) -> tuple[ScopedBudget, Spending]:
        """Return the limits of a scope of the caller's group, and what it has used."""
        budget = await self._read(principal, scope)
        return budget, await self._ledger.read(principal.group_id, scope)

    async def page(self, principal: Principal, size: int, token: str) -> Page[ScopedBudget]:
        """Return limits of the caller's group in the order of their scopes.

        Raises:
            InvalidArgument: the token is not one of this listing.
        """
        async with self._database.read() as connection:
            budgets = BudgetRepository(connection)

            async def read(after: list[Any] | None, limit: int) -> Sequence[ScopedBudget]:
                found = await budgets.page(principal.group_id, after, limit)
                # The limits of the whole group come first, and may be those of the operator alone.
                return under_group_limits(found, principal.limits)[:limit] if after is None else found

            return await self._pager.page(
                size, token, {}, read, lambda budget: [budget.scope.model, budget.scope.subject]
            )

    async def set(self, principal: Principal, scope: Scope, budget: Budget) -> Budget:
        """Replace the limits that the caller's group has set for a scope.

        Raises:
            InvalidArgument: a limit is not a number that can be used, or above the operator's ceiling for the scope.
        """
        _check_numbers("budget", budget)
        _check_ceiling(replace(await self._read(principal, scope), own=budget))
        async with self._database.write() as connection:
            await _store(connection, principal.group_id, scope, budget, ceiling=False)
        self._forget(principal.group_id)
        return budget

    async def delete(self, principal: Principal, scope: Scope) -> None:
        """Remove the limits that the caller's group has set for a scope, where there are any."""
        async with self._database.write() as connection:
            await BudgetRepository(connection).delete(principal.group_id, scope, ceiling=False)
        self._forget(principal.group_id)

    async def set_ceiling(self, group_id: str, scope: Scope, ceiling: Budget) -> Budget:
        """Replace the limits that the operator has set for a scope of a group.

        Raises:
            InvalidArgument: a limit is not a number that can be used.
        """
        _check_numbers("ceiling", ceiling)
        async with self._database.write() as connection:
            await _store(connection, group_id, scope, ceiling, ceiling=True)
        self._forget(group_id)
        return ceiling

    async def _read(self, principal: Principal, scope: Scope) -> ScopedBudget:
        """Return the limits of a scope, with all that the operator has set for it."""
        budget = await read_budget(self._database, principal.group_id, scope)
        return under_group_limits([budget], principal.limits)[0] if scope == WHOLE_GROUP else budget

    async def _limits(self, principal: Principal, model: Model) -> list[tuple[ScopedBudget, Budget]]:
        """Return what limits a call.

        Raises:
            ResourceExhausted: the operator allows none.
            FailedPrecondition: its cost is limited, and nobody knows it.
        """
        _refuse_where_none_allowed(principal.limits)
        budgets = under_group_limits(await self._budgets(principal, model.name), principal.limits)
        if budgets or self._alerts.watches(principal.group_id):
            self._watch(principal, model, budgets)
        limits = [(budget, budget.effective) for budget in budgets]
        _check_prices(model, limits)
        return limits

    def _forget(self, group_id: str) -> None:
        if self._cache is not None:
            self._cache.forget_where(lambda key: key[0] == group_id)

    async def _budgets(self, principal: Principal, model: str) -> list[ScopedBudget]:
        group_id, subject = principal.group_id, principal.subject
        if self._cache is None:
            return await read_budgets(self._database, group_id, model, subject)
        return await self._cache.get(
            (group_id, model, subject), lambda: read_budgets(self._database, group_id, model, subject)
        )

    def _watch(self, principal: Principal, model: Model, budgets: Sequence[ScopedBudget]) -> None:
        """Have alerts told of the limits of a call, and no more of those that have been removed."""
        limited = {budget.scope: budget for budget in budgets}
        for scope in scopes_of(model.name, principal.subject):
            self._alerts.watch(principal.group_id, limited.get(scope, ScopedBudget(scope)))

    async def _reserve(
        self,
        principal: Principal,
        model: Model,
        limits: list[tuple[ScopedBudget, Budget]],
        expected: Callable[[], Usage],
    ) -> Reservation:
        summed = [(budget, effective) for budget, effective in limits if effective.limits_sums]
        if not summed:
            return _NOTHING_RESERVED
        spendings = await self._ledger.spending(principal.group_id, [budget.scope for budget, _ in summed])
        moment = utc_now()
        # Nothing is awaited between the check and the reservation: calls at the same time see each other's.
        for (budget, effective), spending in zip(summed, spendings, strict=True):
            for limit in SUM_LIMITS:
                allowed = effective.value(limit)
                if not allowed:
                    continue
                used = spending.used(limit.measure, limit.period, moment)
                if used + spending.reserved(limit.measure) >= allowed:
                    raise _exceeded(budget, limit, allowed, used, moment)
        usage = expected()
        sums = Sums(model.prices.cost(usage), usage.input_tokens + usage.output_tokens)
        for spending in spendings:
            spending.reserve(sums)
        return Reservation(sums, spendings)

    async def _count_call(self, group_id: str, limits: list[tuple[ScopedBudget, Budget]]) -> None:
        counted = [(budget, effective.calls_per_minute) for budget, effective in limits if effective.calls_per_minute]
        if not counted:
            return
        now = utc_now()
        minute = int(now.timestamp() // 60)
        async with self._database.write() as connection:
            repository = BudgetRepository(connection)
            # In one order everywhere, so that transactions never wait for each other in a circle. A refusal counts
            # nothing: the transaction is rolled back.
            for budget, allowed in sorted(counted, key=lambda each: (each[0].scope.model, each[0].scope.subject)):
                if await repository.count_call(group_id, budget.scope, minute) > allowed:
                    raise _refusal(
                        budget,
                        "calls_per_minute",
                        f"{_whose(budget.scope)} have used their {allowed} model calls of this minute; try again in "
                        "the next one",
                        Period.MINUTE.remaining(now),
                    )


async def _store(connection: AsyncConnection, group_id: str, scope: Scope, budget: Budget, *, ceiling: bool) -> None:
    budgets = BudgetRepository(connection)
    if budget == NO_LIMITS:
        await budgets.delete(group_id, scope, ceiling=ceiling)
    else:
        await budgets.set(group_id, scope, budget, ceiling=ceiling)


def _check_prices(model: Model, limits: list[tuple[ScopedBudget, Budget]]) -> None:
    prices = model.prices
    if prices.known:
        return
    limited, name = next(
        ((budget, found) for budget, effective in limits if (found := effective.cost_limit)), (None, "")
    )
    if limited is None:
        return
    missing = "input_cost_per_million_tokens" if prices.input is None else "output_cost_per_million_tokens"
    priced = (
        f"let the operator give it {missing} in the list of shared models"
        if model.shared
        else f"set its {missing} with UpdateModel (0 if it is free)"
    )
    raise FailedPrecondition(
        f'the price of "{model.name}" is unknown, and {_whose(limited.scope)} have the limit {name}: {priced}, or '
        f"{_LIFTED[limited.set_by(name)]}",
        reason="PRICE_UNKNOWN",
        metadata={"model": model.name, "field": missing, **_scope_metadata(limited, name)},
    )


def _exceeded(
    budget: ScopedBudget, limit: SumLimit, allowed: float, used: float, moment: datetime
) -> ResourceExhausted:
    form = _dollars if limit.measure is Measure.COST else "{:,.0f} tokens".format
    span = {Period.MINUTE: "this minute", Period.DAY: "today (UTC)", Period.MONTH: "this month (UTC)"}[limit.period]
    whose = _whose(budget.scope)
    if used < allowed:
        return _refusal(
            budget,
            limit.name,
            f"{whose} have used {form(used)} of their {form(allowed)} for {span}, and calls under way "
            "may use the rest; try again when they have ended",
            _RESERVED_SECONDS,
        )
    raised = _RAISED[budget.set_by(limit.name)]
    # Nobody waits for the end of a month.
    wait = None if limit.period is Period.MONTH else limit.period.remaining(moment)
    if wait is None:
        raised += ", and waiting helps only when the next month begins"
    return _refusal(
        budget,
        limit.name,
        f"{whose} have used {form(used)} of their {form(allowed)} for {span}; {raised}",
        wait,
    )


def _refusal(budget: ScopedBudget, limit: str, message: str, retry_after: float | None) -> ResourceExhausted:
    return ResourceExhausted(
        message, reason="BUDGET_EXCEEDED", metadata=_scope_metadata(budget, limit), retry_after=retry_after
    )


def _scope_metadata(budget: ScopedBudget, limit: str) -> dict[str, str]:
    found = {"budget": limit}
    if budget.scope.model:
        found["budget_model"] = budget.scope.model
    if budget.scope.subject:
        found["budget_subject"] = budget.scope.subject
    if (set_by := budget.set_by(limit)) is not SetBy.GROUP:
        found["set_by"] = set_by
    return found


def _dollars(cost: float) -> str:
    return f"${cost:,.2f}" if cost >= 1 or not cost else f"${cost:.3g}"


def _whose(scope: Scope) -> str:
    """Return whose calls a limit is about: a plural, for the beginning of a sentence."""
    of_model = f' of "{scope.model}"' if scope.model else ""
    by_subject = f" by {scope.subject}" if scope.subject else ""
    return f"your group's calls{of_model}{by_subject}"


def _refuse_where_none_allowed(limits: GroupLimits) -> None:
    """Raises ResourceExhausted: BUDGET_EXCEEDED, the group is allowed no call at all, which a ceiling cannot say."""
    for quota, field_name in (
        ("model_calls_per_minute", "calls_per_minute"),
        ("monthly_cost_ceiling", "monthly_cost_limit"),
    ):
        if getattr(limits, quota) == 0:
            raise ResourceExhausted(
                f"your group may not call models: its limit {quota} is 0; {how_to_raise(quota)}",
                reason="BUDGET_EXCEEDED",
                metadata={"budget": field_name, "set_by": SetBy.GROUP_LIMITS},
            )


def _check_ceiling(budget: ScopedBudget) -> None:
    if too_large := budget.too_large:
        raise InvalidArgument.fields(
            [
                FieldViolation(
                    f"budget.{name}",
                    f"must be at most {getattr(budget.ceiling, name):,.15g}, {_CEILINGS[budget.ceiling_set_by(name)]}; "
                    "0 sets no limit of your own",
                )
                for name in too_large
            ]
        )


def _check_numbers(path: str, budget: Budget) -> None:
    bad = [
        FieldViolation(f"{path}.{limit.name}", "must be a finite number; 0 means no limit")
        for limit in SUM_LIMITS
        if not math.isfinite(budget.value(limit))
    ]
    bad += [
        FieldViolation(f"{path}.{limit.name}", f"must be at most {_MOST_TOKENS}; 0 means no limit")
        for limit in SUM_LIMITS
        if limit.measure is Measure.TOKENS and budget.value(limit) > _MOST_TOKENS
    ]
    if not math.isfinite(budget.alert_share):
        bad.append(FieldViolation(f"{path}.alert_share", "must be from 0 to 1; 0 means no alerts"))
    if bad:
        raise InvalidArgument.fields(bad)
