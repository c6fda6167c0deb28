import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.backoff import Backoff

seconds = st.floats(0, 1e6, allow_nan=False)


@given(
    base=seconds | st.just(5e-324),
    longest=seconds,
    factor=st.floats(1, 10),
    jitter=st.floats(0, 1),
    attempt=st.integers(0, 10**9),
    at_least=seconds,
)
def test_a_pause_stays_within_its_bounds(
    base: float, longest: float, factor: float, jitter: float, attempt: int, at_least: float
) -> None:
    pause = Backoff(base, longest, factor=factor, jitter=jitter).pause(attempt, at_least)
    assert at_least <= pause <= max(longest, at_least + jitter * longest) * (1 + 1e-9)
    assert pause >= (1 - jitter) * min(base, longest) * (1 - 1e-9)


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3, jitter=0)
    assert [backoff.pause(attempt) for attempt in (1, 2, 3, 4, 5, 1000)] == pytest.approx([0.5, 1, 2, 3, 3, 3])


def test_callers_that_were_asked_for_the_same_pause_come_back_at_different_times() -> None:
    backoff = Backoff(1, 10)
    assert len({backoff.pause(1, at_least=30) for _ in range(10)}) > 1
    assert max(backoff.pause(1, at_least=30) for _ in range(100)) <= 30.5


@pytest.mark.parametrize("attempt", [0, 1])
def test_the_first_pause_is_the_base(attempt: int) -> None:
    assert Backoff(0.2, 10, jitter=0).pause(attempt) == pytest.approx(0.2)
