"""What is tried again, where, after which pause, and what it tells of an upstream."""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.common.backoff import Backoff
from services.common.errors import (
    CoxswainError,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from services.common.grpc.call import Call, enter_call
from services.common.identity.principal import CredentialKind, Principal, Role
from services.models.domain.model import Capabilities, Deployment, Model, ModelSpec, Provider
from services.models.providers.circuits import upstream_circuits
from services.models.providers.retries import RetryableError, RetryLimits, too_late
from services.models.providers.upstream_errors import unavailable
from services.models.providers.upstreams import Attempt, Upstreams

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch, clock: _Clock) -> list[float]:
    """The pauses that were made; none of them takes any time."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


@pytest.fixture(autouse=True)
async def _caller() -> None:
    enter("sales")


def enter(group_id: str) -> None:
    principal = Principal("a", group_id, Role.OPERATOR, False, CredentialKind.DEV, "", "", NOW)
    enter_call(Call("1", "/m", principal=principal))


def model(**fields: Any) -> Model:
    spec = ModelSpec("m", Provider.OPENAI, capabilities=Capabilities(chat=True), **fields)
    return Model("1", "", spec, enabled=True, created_at=NOW, updated_at=NOW)


def upstreams(
    clock: _Clock, *, max_attempts: int = 4, threshold: int = 3, chance: random.Random | None = None
) -> Upstreams:
    return Upstreams(
        RetryLimits(600, max_attempts, Backoff(0.5, 8.0, jitter=0), longest_wait=60, longest_batch_wait=60),
        upstream_circuits(threshold=threshold, pause=2.0, longest=60.0, clock=clock),
        clock=clock,
        chance=chance,
    )


def outage() -> RetryableError:
    return RetryableError(Unavailable("down", reason="UPSTREAM_UNAVAILABLE"))


def rate_limit(wait: float = 0.0) -> RetryableError:
    return RetryableError(ResourceExhausted("slow down", reason="UPSTREAM_RATE_LIMITED"), wait)


class Script:
    """Fails as it is told to, then answers; keeps what was attempted."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.attempts: list[Attempt] = []

    async def __call__(self, attempt: Attempt) -> str:
        self.attempts.append(attempt)
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


async def test_outages_are_tried_again_after_growing_pauses(clock: _Clock, pauses: list[float]) -> None:
    def attempts(outcome: str) -> float:
        labels = {"provider": "openai", "outcome": outcome}
        return REGISTRY.get_sample_value("coxswain_models_upstream_attempts_total", labels) or 0.0

    def retries() -> float:
        labels = {"provider": "openai", "model": model().counted_as, "reason": "UPSTREAM_UNAVAILABLE"}
        return REGISTRY.get_sample_value("coxswain_models_retries_total", labels) or 0.0

    script = Script(outage(), outage())
    retried = retries()
    before = attempts("UPSTREAM_UNAVAILABLE"), attempts("OK")
    assert await upstreams(clock, threshold=0).call(model(), script) == "answer"
    assert pauses == [0.5, 1.0]
    assert (attempts("UPSTREAM_UNAVAILABLE"), attempts("OK")) == (before[0] + 2, before[1] + 1)
    assert retries() == retried + 2
    assert len({attempt.idempotency_key for attempt in script.attempts}) == 1


async def test_attempts_end_with_the_last_failure(clock: _Clock, pauses: list[float]) -> None:
    script = Script(*(outage() for _ in range(9)))
    with pytest.raises(Unavailable, match="down"):
        await upstreams(clock, threshold=0).call(model(), script)
    assert (len(script.attempts), len(pauses)) == (4, 3)


async def test_an_upstreams_own_pause_is_made_unless_it_is_too_long(clock: _Clock, pauses: list[float]) -> None:
    assert await upstreams(clock).call(model(), Script(rate_limit(7.0))) == "answer"
    assert pauses == [7.0]
    with pytest.raises(ResourceExhausted):
        await upstreams(clock).call(model(), Script(rate_limit(61.0)))
    assert pauses == [7.0]


async def test_pauses_that_upstreams_ask_for_are_too_long_together_too(clock: _Clock, pauses: list[float]) -> None:
    script = Script(*(rate_limit(25.0) for _ in range(9)))
    with pytest.raises(ResourceExhausted):
        await upstreams(clock, max_attempts=9).call(model(), script)
    assert pauses == [25.0, 25.0]
    assert await upstreams(clock).call(model(), Script(rate_limit(90.0)), longest_wait=100.0) == "answer"
    with pytest.raises(ResourceExhausted):
        await upstreams(clock).call(model(), Script(rate_limit(11.0)), longest_wait=10.0)
    assert pauses == [25.0, 25.0, 90.0]


@pytest.mark.parametrize(
    ("failure", "opens"),
    [
        (outage(), True),
        (Unavailable("cut", reason="UPSTREAM_UNAVAILABLE"), True),
        (rate_limit(), False),
        (rate_limit(3.0), False),
        (RetryableError(Unavailable("helper", reason="UPSTREAM_UNAVAILABLE"), ours=True), False),
        (InvalidArgument("no", reason="UPSTREAM_REJECTED"), False),
        (FailedPrecondition("no", reason="UPSTREAM_CREDENTIAL_REJECTED"), False),
        (ResourceExhausted("no", reason="UPSTREAM_QUOTA_EXHAUSTED"), False),
        (ResourceExhausted("no", reason="UPSTREAM_SHARE_EXCEEDED"), False),
        (Unavailable("no", reason="UPSTREAM_BAD_RESPONSE"), False),
        (too_late(model()), False),
        (asyncio.CancelledError(), False),
    ],
    ids=lambda value: str(value) if isinstance(value, bool) else None,
)
async def test_only_outages_have_an_upstream_left_alone(
    clock: _Clock, pauses: list[float], failure: BaseException, opens: bool
) -> None:
    tried = upstreams(clock, max_attempts=1)
    for _ in range(3):
        with pytest.raises((CoxswainError, asyncio.CancelledError)):
            await tried.call(model(), Script(failure))  # type: ignore[arg-type]
    script = Script()
    if not opens:
        assert await tried.call(model(), script) == "answer"
        return
    with pytest.raises(Unavailable) as refused:
        await tried.call(model(), script)
    assert (refused.value.reason, refused.value.retry_after) == ("UPSTREAM_UNAVAILABLE", 2.0)
    assert script.attempts == []
    # Neither another group's calls nor those of another model there.
    assert await tried.call(model(upstream_model="other"), script) == "answer"
    enter("legal")
    assert await tried.call(model(), script) == "answer"
    enter("sales")
    clock.now += 2.0
    assert await tried.call(model(), script) == "answer"


async def test_a_call_under_way_waits_once_for_the_probe_of_an_upstream_that_is_left_alone(
    clock: _Clock, pauses: list[float]
) -> None:
    script = Script(outage(), outage(), outage())
    assert await upstreams(clock).call(model(), script) == "answer"
    assert pauses == [0.5, 1.0, 2.0]
    script = Script(*(outage() for _ in range(9)))
    with pytest.raises(Unavailable, match="down"):
        await upstreams(clock, max_attempts=9).call(model(), script)
    assert len(script.attempts) == 4


async def test_a_model_that_another_can_replace_is_tried_twice_and_not_waited_for(
    clock: _Clock, pauses: list[float]
) -> None:
    answer_by = asyncio.get_running_loop().time() + 300
    script = Script(*(outage() for _ in range(9)))
    with pytest.raises(Unavailable):
        await upstreams(clock).call(model(), script, answer_by=answer_by)
    assert [attempt.answer_by for attempt in script.attempts] == [answer_by, answer_by]
    assert all(attempt.deadline > answer_by for attempt in script.attempts)
    with pytest.raises(ResourceExhausted):
        await upstreams(clock).call(model(), Script(rate_limit(6.0)), answer_by=answer_by)
    assert pauses == [0.5]
    # Nor is it tried again when its share of the time is over.
    with pytest.raises(Unavailable):
        await upstreams(clock).call(model(), Script(outage()), answer_by=asyncio.get_running_loop().time())
    assert pauses == [0.5]


def streaming(*items: str | Exception) -> Callable[[Attempt], AsyncGenerator[str, None]]:
    """One stream for each attempt: an exception alone fails it before its first item."""
    left = list(items)

    async def open_stream(_: Attempt) -> AsyncGenerator[str, None]:
        while left:
            item = left.pop(0)
            if isinstance(item, Exception):
                raise item
            yield item

    return open_stream


async def test_a_stream_is_tried_again_until_its_first_item_only(clock: _Clock, pauses: list[float]) -> None:
    tried = upstreams(clock)
    opened = streaming(outage(), "a", "b")
    assert [item async for item in tried.stream(model(), opened)] == ["a", "b"]
    received = []
    with pytest.raises(Unavailable, match="down"):
        async for item in tried.stream(model(), streaming("a", outage(), "b")):
            received.append(item)
    assert received == ["a"]
    assert pauses == [0.5]


async def test_streams_that_break_off_count_as_outages_and_abandoned_ones_do_not(
    clock: _Clock, pauses: list[float]
) -> None:
    tried = upstreams(clock)
    for _ in range(5):
        stream = tried.stream(model(), streaming("a", "b"))
        await anext(stream)
        await stream.aclose()
    for _ in range(3):
        with pytest.raises(Unavailable, match="down"):
            _ = [item async for item in tried.stream(model(), streaming("a", outage()))]
    with pytest.raises(Unavailable, match="left alone"):
        _ = [item async for item in tried.stream(model(), streaming("a"))]


async def test_callers_that_are_refused_learn_of_the_last_failure_but_not_what_the_upstream_said_of_it(
    clock: _Clock, pauses: list[float]
) -> None:
    tried = upstreams(clock, max_attempts=1)
    said = unavailable(model(), "failed with HTTP 503", status=503, quoted=' (it said: "no room for your novel")')
    for _ in range(3):
        with pytest.raises(Unavailable, match="novel"):
            await tried.call(model(), Script(RetryableError(said)))
    with pytest.raises(Unavailable, match=r"left alone.*\(its last failure: .* failed with HTTP 503\)") as refused:
        await tried.call(model(), Script())
    assert "novel" not in refused.value.message


async def test_a_stream_that_probes_lets_others_go_on_as_soon_as_it_answers(clock: _Clock, pauses: list[float]) -> None:
    tried = upstreams(clock, max_attempts=1)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await tried.call(model(), Script(outage()))
    clock.now += 2.0
    probe = tried.stream(model(), streaming("a", "b"))
    assert await anext(probe) == "a"
    assert await tried.call(model(), Script()) == "answer"
    await probe.aclose()


# Deployments

EAST, WEST = "https://east.example.com/v1", "https://west.example.com/v1"
TWO = (Deployment(EAST), Deployment(WEST, "chat-west"))


class Places:
    """Answers by the address that is called: an exception to raise, or nothing to raise."""

    def __init__(self, **failures: Exception) -> None:
        self.failures = failures
        self.called: list[str] = []

    async def __call__(self, attempt: Attempt) -> str:
        place = (attempt.model.spec.base_url or "own").removeprefix("https://").partition(".")[0]
        self.called.append(place)
        if place in self.failures:
            raise self.failures[place]
        return place


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
async def test_calls_are_spread_in_proportion_to_weights(weights: list[int], seed: int) -> None:
    enter("sales")
    served = model(deployments=tuple(Deployment(f"https://p{n}.example.com", weight=w) for n, w in enumerate(weights)))
    tried = upstreams(_Clock(), chance=random.Random(seed))
    places = Places()
    calls = 600
    for _ in range(calls):
        await tried.call(served, places)
    effective = [weight or 1 for weight in weights]
    for number, weight in enumerate(effective):
        expected = calls * weight / sum(effective)
        # Six standard deviations: one chance in a billion.
        assert abs(places.called.count(f"p{number}") - expected) <= 6 * math.sqrt(expected) + 1


async def test_a_deployment_has_what_it_does_not_name_from_its_model(clock: _Clock, pauses: list[float]) -> None:
    served = model(base_url=EAST, upstream_model="chat", deployments=(Deployment(), Deployment(WEST, "chat-west")))
    seen = set()

    async def look(attempt: Attempt) -> None:
        seen.add((attempt.model.spec.base_url, attempt.model.spec.upstream_name, attempt.model.name))

    tried = upstreams(clock, chance=random.Random(1))
    for _ in range(50):
        await tried.call(served, look)
    assert seen == {(EAST, "chat", "m"), (WEST, "chat-west", "m")}


@pytest.mark.parametrize(
    "failure",
    [
        outage(),
        rate_limit(20.0),
        ResourceExhausted("no", reason="UPSTREAM_QUOTA_EXHAUSTED"),
        ResourceExhausted("no", reason="UPSTREAM_SHARE_EXCEEDED"),
        FailedPrecondition("no", reason="UPSTREAM_CREDENTIAL_REJECTED"),
        PermissionDenied("no", reason="DESTINATION_NOT_ALLOWED"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_call_goes_to_the_next_deployment_before_it_pauses(
    clock: _Clock, pauses: list[float], failure: Exception
) -> None:
    for _ in range(5):
        assert await upstreams(clock).call(model(deployments=TWO), Places(east=failure)) == "west"
    assert pauses == []


@pytest.mark.parametrize(
    "failure",
    [
        InvalidArgument("too long", reason="CONTEXT_WINDOW_EXCEEDED"),
        Unavailable("cut", reason="UPSTREAM_UNAVAILABLE"),
        Unavailable("no JSON", reason="UPSTREAM_BAD_RESPONSE"),
    ],
    ids=lambda failure: failure.reason,
)
async def test_what_the_request_is_to_blame_for_or_was_paid_already_goes_nowhere_else(
    clock: _Clock, pauses: list[float], failure: CoxswainError
) -> None:
    places = Places(east=failure, west=failure)
    with pytest.raises(type(failure)):
        await upstreams(clock).call(model(deployments=TWO), places)
    assert len(places.called) == 1


async def test_a_deployment_that_asks_for_a_pause_gets_it_in_that_group(clock: _Clock, pauses: list[float]) -> None:
    tried = upstreams(clock)
    served = model(deployments=TWO)
    places = Places(east=rate_limit(20.0))
    while "east" not in places.called:
        await tried.call(served, places)
    del places.called[:], places.failures["east"]
    for _ in range(20):
        await tried.call(served, places)
    assert set(places.called) == {"west"}
    enter("legal")
    for _ in range(20):
        await tried.call(served, places)
    assert set(places.called) == {"west", "east"}
    enter("sales")
    clock.now += 20.0
    del places.called[:]
    for _ in range(20):
        await tried.call(served, places)
    assert set(places.called) == {"west", "east"}
    assert pauses == []


async def test_the_shortest_of_the_pauses_is_made_when_all_deployments_ask_for_one(
    clock: _Clock, pauses: list[float]
) -> None:
    places = Places(east=rate_limit(20.0), west=rate_limit(30.0))
    with pytest.raises(ResourceExhausted):
        await upstreams(clock).call(model(deployments=TWO), places)
    assert pauses == [20.0, 10.0]
    # One that asked for a pause is better than none.
    tried = upstreams(clock, max_attempts=1)
    with pytest.raises(ResourceExhausted):
        await tried.call(model(deployments=TWO), places)
    places.failures.clear()
    assert await tried.call(model(deployments=TWO), places) == "east"


async def test_deployments_that_are_left_alone_are_passed_over_until_one_of_them_answers(
    clock: _Clock, pauses: list[float]
) -> None:
    tried = upstreams(clock)
    served = model(deployments=TWO)
    places = Places(east=outage())
    while places.called.count("east") < 3:
        await tried.call(served, places)
    del places.called[:]
    for _ in range(20):
        await tried.call(served, places)
    assert set(places.called) == {"west"}
    places.failures["west"] = outage()
    for _ in range(3):
        with pytest.raises(Unavailable):
            await tried.call(served, places)
    del places.called[:]
    with pytest.raises(Unavailable, match="left alone"):
        await tried.call(served, places)
    assert places.called == []


async def test_each_deployment_is_tried_once_however_few_attempts_there_are(clock: _Clock, pauses: list[float]) -> None:
    many = tuple(Deployment(f"https://p{number}.example.com") for number in range(6))
    places = Places(**{f"p{number}": outage() for number in range(6)})
    with pytest.raises(Unavailable):
        await upstreams(clock, max_attempts=1).call(model(deployments=many), places)
    assert sorted(places.called) == [f"p{number}" for number in range(6)]
    assert pauses == []


async def test_the_failure_that_may_pass_is_told_rather_than_a_wrong_key_elsewhere(
    clock: _Clock, pauses: list[float]
) -> None:
    places = Places(east=FailedPrecondition("bad key", reason="UPSTREAM_CREDENTIAL_REJECTED"), west=outage())
    with pytest.raises(Unavailable, match="down"):
        await upstreams(clock, threshold=0).call(model(deployments=TWO), places)
    # The one that cannot be used is not tried again in this call.
    assert places.called.count("east") == 1


async def test_no_deployment_is_called_when_the_time_is_over(
    clock: _Clock, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    called: list[str] = []

    async def hang(attempt: Attempt) -> None:
        called.append(attempt.model.spec.base_url)
        now[0] = attempt.answer_by
        raise outage()

    with pytest.raises(Unavailable):
        await upstreams(clock).call(model(deployments=TWO), hang, answer_by=1010.0)
    assert len(called) == 1
