"""An upstream that fails in a row is left alone, tried by one call, and used again when it answers."""

from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from services.common import circuit_breaker
from services.common.circuit_breaker import Trial
from services.models.providers.circuits import UpstreamCircuits, UpstreamKey, UpstreamTrial, upstream_circuits

KEY = UpstreamKey("sales", "openai", "https://example.com/v1", "chat")


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def breaker(clock: _Clock) -> UpstreamCircuits:
    return upstream_circuits(threshold=3, pause=1.0, longest=5.0, clock=clock)


def fail(breaker: UpstreamCircuits, times: int = 1, key: UpstreamKey = KEY) -> None:
    for _ in range(times):
        breaker.begin(key).failed()


def test_it_opens_after_outages_in_a_row_only(breaker: UpstreamCircuits) -> None:
    fail(breaker, 2)
    breaker.begin(KEY).succeeded()
    fail(breaker, 2)
    assert not breaker.refusal(KEY)
    fail(breaker)
    assert breaker.refusal(KEY) == 1.0


@pytest.mark.parametrize(
    "other",
    [
        UpstreamKey("legal", "openai", "https://example.com/v1", "chat"),
        UpstreamKey("sales", "openai", "https://example.org/v1", "chat"),
        UpstreamKey("sales", "openai", "https://example.com/v1", "small"),
        UpstreamKey("sales", "litellm", "https://example.com/v1", "chat"),
    ],
)
def test_no_other_group_address_or_model_is_touched(breaker: UpstreamCircuits, other: UpstreamKey) -> None:
    fail(breaker, 3)
    assert breaker.refusal(KEY)
    assert not breaker.refusal(other)


def test_one_attempt_probes_and_its_failure_doubles_the_pause(breaker: UpstreamCircuits, clock: _Clock) -> None:
    fail(breaker, 3)
    pauses = []
    for _ in range(4):
        clock.now += breaker.refusal(KEY)
        assert not breaker.refusal(KEY)
        probe = breaker.begin(KEY)
        assert breaker.refusal(KEY)
        probe.failed()
        pauses.append(breaker.refusal(KEY))
    assert pauses == [2.0, 4.0, 5.0, 5.0]


def test_a_probe_that_gives_up_leaves_the_place_to_another_and_a_success_starts_anew(
    breaker: UpstreamCircuits, clock: _Clock
) -> None:
    fail(breaker, 3)
    clock.now += 1.0
    breaker.begin(KEY).gave_up()
    assert not breaker.refusal(KEY)
    breaker.begin(KEY).succeeded()
    fail(breaker, 2)
    assert not breaker.refusal(KEY)
    fail(breaker)
    assert breaker.refusal(KEY) == 1.0


def test_attempts_that_overlap_fail_as_one_outage(breaker: UpstreamCircuits, clock: _Clock) -> None:
    under_way = [breaker.begin(KEY) for _ in range(50)]
    clock.now += 1.0
    for trial in under_way:
        trial.failed()
    assert not breaker.refusal(KEY)
    fail(breaker, 2)
    assert breaker.refusal(KEY)


@pytest.mark.parametrize("end", [Trial.failed, Trial.succeeded, Trial.gave_up])
def test_what_began_before_the_opening_changes_nothing_after_it(
    breaker: UpstreamCircuits, clock: _Clock, end: Callable[[UpstreamTrial], None]
) -> None:
    before = breaker.begin(KEY)
    fail(breaker, 3)
    clock.now += 0.25
    end(before)
    assert breaker.refusal(KEY) == 0.75


def test_an_attempt_counts_once(breaker: UpstreamCircuits) -> None:
    trial = breaker.begin(KEY)
    for _ in range(3):
        trial.failed()
    assert not breaker.refusal(KEY)


def test_it_can_be_switched_off(clock: _Clock) -> None:
    breaker = upstream_circuits(threshold=0, pause=1.0, longest=5.0, clock=clock)
    fail(breaker, 100)
    assert not breaker.refusal(KEY)


def test_the_metric_counts_open_circuits_and_names_no_group(
    breaker: UpstreamCircuits, clock: _Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened() -> float:
        return REGISTRY.get_sample_value("coxswain_models_circuits_open") or 0.0

    def changes() -> list[float]:
        labels = {"provider": "openai", "model": "own"}
        names = (f"coxswain_models_circuit_{change}_total" for change in ("openings", "closings"))
        return [REGISTRY.get_sample_value(name, labels) or 0.0 for name in names]

    monkeypatch.setattr(circuit_breaker, "_SIZE", 2)
    before, (openings, closings) = opened(), changes()
    fail(breaker, 3)
    assert opened() == before + 1
    assert changes() == [openings + 1, closings]
    clock.now += 1.0
    fail(breaker)
    assert opened() == before + 1
    clock.now += 2.0
    breaker.begin(KEY).succeeded()
    assert opened() == before
    assert changes() == [openings + 2, closings + 1]
    # Those that were not used for the longest time are forgotten.
    for number in range(4):
        fail(breaker, 3, UpstreamKey(f"group {number}", "openai", "", "chat"))
    assert opened() == before + 2
    # What is forgotten was not used again.
    assert changes() == [openings + 6, closings + 1]


def test_a_probe_that_takes_long_keeps_others_waiting_for_a_pause_only(
    breaker: UpstreamCircuits, clock: _Clock
) -> None:
    fail(breaker, 3)
    clock.now += 1.0
    first = breaker.begin(KEY)
    assert breaker.refusal(KEY) == 1.0
    clock.now += 1.0
    assert not breaker.refusal(KEY)
    second = breaker.begin(KEY)
    second.failed()
    assert breaker.refusal(KEY) == 2.0
    # It began before that, so its failure is no news.
    first.failed()
    assert breaker.refusal(KEY) == 2.0
    clock.now += 2.0
    slow = breaker.begin(KEY)
    clock.now += 2.0
    breaker.begin(KEY).succeeded()
    slow.failed()
    assert not breaker.refusal(KEY)
