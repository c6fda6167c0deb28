"""What executions may use: limits hold before each call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import ResourceExhausted
from services.orchestrator.domain.execution import Usage
from services.orchestrator.domain.limits import ExecutionLimits
from services.orchestrator.worker.host.usage_total import UsageTotal

ONE = Usage(1, 10, 5, 0.25)


@pytest.mark.parametrize(
    ("limits", "calls", "reached"),
    [
        (ExecutionLimits(max_model_calls=3), 3, "max_model_calls"),
        (ExecutionLimits(max_tokens=31), 3, "max_tokens"),
        (ExecutionLimits(max_tokens=30), 2, "max_tokens"),
        (ExecutionLimits(max_cost=0.5), 2, "max_cost"),
        (ExecutionLimits(max_cost=9, max_tokens=1), 1, "max_tokens"),
    ],
)
def test_model_calls_stop_at_the_limit_that_is_reached_first(limits: ExecutionLimits, calls: int, reached: str) -> None:
    total = UsageTotal(Usage(), limits)
    for _ in range(calls):
        with total.model_call():
            total.add(ONE)
    with pytest.raises(ResourceExhausted) as refused, total.model_call():
        pass
    assert (refused.value.reason, refused.value.metadata["limit"]) == ("EXECUTION_LIMIT_REACHED", reached)
    assert f"limits.{reached}" in refused.value.message


def test_calls_that_are_under_way_count_until_they_fail() -> None:
    total = UsageTotal(Usage(), ExecutionLimits(max_model_calls=2))
    with total.model_call(), total.model_call(), pytest.raises(ResourceExhausted), total.model_call():
        pass
    with total.model_call():
        pass


def test_what_earlier_executions_used_counts_against_limits_alone() -> None:
    total = UsageTotal(
        Usage(), ExecutionLimits(max_cost=0.5, max_tool_calls=2), before=Usage(2, 1, 1, 0.5, tool_calls=1)
    )
    with pytest.raises(ResourceExhausted, match="continues"), total.model_call():
        pass
    total.check_tool_call(0.0, [])
    with pytest.raises(ResourceExhausted) as refused:
        total.check_tool_call(0.0, [0.0])
    assert refused.value.metadata == {"limit": "max_tool_calls", "value": "2"}
    with pytest.raises(ResourceExhausted) as refused:
        total.check_tool_call(0.1, [])
    assert refused.value.metadata == {"limit": "max_cost", "value": "0.5"}
    assert total.value == Usage()


def test_tools_that_cost_something_keep_to_the_limit_on_cost() -> None:
    total = UsageTotal(Usage(), ExecutionLimits(max_cost=1.0))
    total.add(Usage(tool_calls=1, cost=0.5))
    total.check_tool_call(0.5, [])
    with pytest.raises(ResourceExhausted, match=r"limits\.max_cost"):
        total.check_tool_call(0.5, [0.25, 0.25])
    total.check_tool_call(0.0, [0.25, 0.25])


_LIMITS = st.builds(
    ExecutionLimits,
    max_cost=st.none() | st.floats(0.01, 100),
    max_tokens=st.none() | st.integers(1, 10**9),
    max_model_calls=st.none() | st.integers(1, 100),
    max_tool_calls=st.none() | st.integers(1, 100),
)


@given(_LIMITS, _LIMITS)
def test_limits_can_only_be_lowered(one: ExecutionLimits, other: ExecutionLimits) -> None:
    both = one.lowered_by(other)
    assert both == other.lowered_by(one)
    assert both.lowered_by(one) == both
    for name in ("max_cost", "max_tokens", "max_model_calls", "max_tool_calls"):
        given_values = {getattr(one, name), getattr(other, name)} - {None}
        assert getattr(both, name) == (min(given_values) if given_values else None)
