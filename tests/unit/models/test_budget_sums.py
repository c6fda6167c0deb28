"""Sums that limits are held against."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.models.domain.budget import (
    Budget,
    Measure,
    Period,
    Scope,
    ScopedBudget,
    SetBy,
    Spending,
    Sums,
    scopes_of,
)
from services.models.domain.usage import Usage

NOW = datetime(2026, 1, 31, 23, 59, 30, tzinfo=UTC)

costs = st.floats(0, 1e6)
usages = st.builds(Usage, st.integers(0, 10**9), st.integers(0, 10**9), cost=costs)
moments = st.integers(0, 4 * 24 * 3600).map(
    lambda seconds: datetime(2026, 1, 29, tzinfo=UTC) + timedelta(seconds=seconds)
)


@given(st.lists(st.tuples(moments, usages)))
def test_each_span_holds_exactly_the_calls_that_began_in_it(calls: list[tuple[datetime, Usage]]) -> None:
    # Calls end in any order, but what is over counts no more.
    spending = Spending()
    calls.sort(key=lambda call: call[0])
    for moment, usage in calls:
        spending.add(moment, usage)
    if not calls:
        assert spending.used(Measure.TOKENS, Period.MONTH, NOW) == 0
        return
    latest = calls[-1][0]
    for period in Period:
        counted = [usage for moment, usage in calls if period.of(moment) == period.of(latest)]
        assert spending.used(Measure.TOKENS, period, latest) == sum(u.input_tokens + u.output_tokens for u in counted)
        cost = spending.used(Measure.COST, period, latest)
        assert math.isclose(cost, math.fsum(u.cost for u in counted), rel_tol=1e-9, abs_tol=1e-9)


def test_a_new_span_begins_with_nothing_and_late_calls_of_the_old_one_do_not_count() -> None:
    spending = Spending()
    spending.add(NOW, Usage(5, 5, cost=1.0))
    later = NOW + timedelta(minutes=1)
    assert [spending.used(Measure.TOKENS, period, later) for period in Period] == [0, 0, 0]
    spending.add(later, Usage(1))
    spending.add(NOW, Usage(5))
    assert [spending.used(Measure.TOKENS, period, later) for period in Period] == [1, 1, 1]


@given(st.lists(st.builds(Sums, costs, st.integers(0, 10**9)), max_size=30), st.randoms())
def test_nothing_stays_reserved_when_the_last_call_has_ended(reserved: list[Sums], order: object) -> None:
    spending = Spending()
    for sums in reserved:
        spending.reserve(sums)
    assert spending.reserved(Measure.TOKENS) == sum(sums.tokens for sums in reserved)
    order.shuffle(reserved)  # type: ignore[attr-defined]
    for number, sums in enumerate(reserved):
        assert not spending.idle
        spending.release(sums)
        left = math.fsum(each.cost for each in reserved[number + 1 :])
        assert math.isclose(spending.reserved(Measure.COST), left, rel_tol=1e-6, abs_tol=1e-6)
    assert spending.idle
    assert (spending.reserved(Measure.COST), spending.reserved(Measure.TOKENS)) == (0, 0)


def test_what_is_read_anew_leaves_reservations() -> None:
    spending = Spending()
    spending.add(NOW, Usage(5, cost=1.0))
    spending.reserve(Sums(2.0, 7))
    spending.replace(NOW, {period: Sums(4.0, 9) for period in Period})
    assert spending.used(Measure.COST, Period.DAY, NOW) == 4.0
    assert (spending.reserved(Measure.COST), spending.reserved(Measure.TOKENS)) == (2.0, 7)


@pytest.mark.parametrize(
    ("own", "ceiling", "group_limit", "effective", "set_by"),
    [
        (0, 0, 0, 0, SetBy.GROUP),
        (5, 0, 0, 5, SetBy.GROUP),
        (0, 5, 0, 5, SetBy.OPERATOR),
        (3, 5, 0, 3, SetBy.GROUP),
        (5, 3, 0, 3, SetBy.OPERATOR),
        (5, 5, 0, 5, SetBy.GROUP),
        (5, 4, 3, 3, SetBy.GROUP_LIMITS),
        (5, 3, 4, 3, SetBy.OPERATOR),
        (0, 0, 4, 4, SetBy.GROUP_LIMITS),
        (2, 3, 4, 2, SetBy.GROUP),
    ],
)
def test_the_smaller_limit_counts_and_is_known_whose_it_is(
    own: int, ceiling: int, group_limit: int, effective: int, set_by: SetBy
) -> None:
    budget = ScopedBudget(Scope(), Budget(calls_per_minute=own), Budget(calls_per_minute=ceiling))
    budget = budget.under(Budget(calls_per_minute=group_limit))
    assert budget.effective == replace(Budget(), calls_per_minute=effective)
    assert budget.set_by("calls_per_minute") is set_by


def test_a_call_is_in_four_scopes() -> None:
    assert set(scopes_of("m", "s")) == {Scope(), Scope("m"), Scope("", "s"), Scope("m", "s")}


@given(moments)
def test_spans_end_where_the_next_one_begins(moment: datetime) -> None:
    for period in Period:
        end = moment + timedelta(seconds=period.remaining(moment) + 0.2)
        assert period.of(end) > period.of(moment)
        assert period.of(end - timedelta(seconds=0.4)) >= period.of(moment)
