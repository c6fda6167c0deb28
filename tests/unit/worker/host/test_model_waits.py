"""Models whose providers fail: how long they are waited for, what is told of it, and when a run gives up its slot."""

import asyncio
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from services.common.errors import CoxswainError, FailedPrecondition, ResourceExhausted, Unavailable
from services.orchestrator.domain.execution import ModelWait
from services.orchestrator.worker.host.model_waits import ModelWaits
from services.orchestrator.worker.host.recorder import TaskRef
from services.orchestrator.worker.host.task_journal import TaskJournal
from tests.unit.worker.host.call_world import World


def down(**fields: Any) -> Unavailable:
    return Unavailable("down", reason="UPSTREAM_UNAVAILABLE", **fields)


def limit(reason: str, retry_after: float | None) -> ResourceExhausted:
    return ResourceExhausted("used up", reason=reason, retry_after=retry_after)


class Provider:
    """Fails until its outage is over."""

    def __init__(self, world: World, outage: float, error: CoxswainError | None = None) -> None:
        self._world = world
        self._outage = outage
        self._error = error or down()
        self.calls: list[float] = []

    async def __call__(self) -> str:
        self.calls.append(self._world.time.seconds)
        if self._world.time.seconds < self._outage:
            raise self._error
        return "answer"


async def ask(world: World, call: Any, *, index: int = 0, model: str = "m", time_left: float | None = None) -> Any:
    """Ask as a crew process's call would."""
    journal = TaskJournal(TaskRef(index, f"t{index}", 1))
    with world.activity.work(index):
        return await world.waits.until_answered(journal, model, call, time_left)


@pytest.mark.parametrize("outage", [1, 20, 55])
async def test_an_outage_is_waited_out_with_growing_pauses(world: World, outage: float) -> None:
    provider = Provider(world, outage)
    assert await ask(world, provider) == "answer"
    pauses = [later - earlier for earlier, later in pairwise(provider.calls)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 1
    assert len(provider.calls) < 10
    told = world.recorder.events
    assert [wait.retry_time.ToDatetime() for wait in told] == [
        (world.time.start + timedelta(seconds=at)).replace(tzinfo=None) for at in provider.calls[1:]
    ]
    assert len({wait.give_up_time.ToDatetime() for wait in told}) == 1


async def test_patience_ends_with_the_failure_itself(world: World) -> None:
    provider = Provider(world, 1e9)
    with pytest.raises(Unavailable, match="down"):
        await ask(world, provider)
    assert world.time.seconds <= 60 < world.time.seconds + 25


async def test_an_answer_lets_patience_begin_anew(world: World) -> None:
    await ask(world, Provider(world, 40))
    assert await ask(world, Provider(world, world.time.seconds + 40)) == "answer"


@pytest.mark.parametrize("seconds", [3.0, 20.0])
async def test_retry_after_is_kept_to(world: World, seconds: float) -> None:
    provider = Provider(world, seconds, limit("UPSTREAM_RATE_LIMITED", seconds))
    assert await ask(world, provider) == "answer"
    assert provider.calls == [0.0, seconds]


async def test_limits_of_the_group_are_waited_for_minutes_at_most(world: World) -> None:
    assert await ask(world, Provider(world, 230, limit("BUDGET_EXCEEDED", 60.0))) == "answer"
    with pytest.raises(ResourceExhausted):
        await ask(world, Provider(world, 1e9, limit("UPSTREAM_SHARE_EXCEEDED", 10.0)))
    assert world.time.seconds <= 600


@pytest.mark.parametrize(
    "failure",
    [
        limit("BUDGET_EXCEEDED", None),
        limit("BUDGET_EXCEEDED", 3600.0),
        limit("UPSTREAM_RATE_LIMITED", None),
        limit("UPSTREAM_QUOTA_EXHAUSTED", 1.0),
        Unavailable("gone", retry_after=0.01),
        down(retry_after=61.0),
    ],
)
async def test_what_lasts_is_not_waited_for(world: World, failure: CoxswainError) -> None:
    with pytest.raises(type(failure)):
        await ask(world, Provider(world, 1e9, failure))
    assert (world.time.slept, world.recorder.events) == ([], [])


async def test_the_agents_own_limit_is_told_as_the_end(world: World) -> None:
    await ask(world, Provider(world, 3), time_left=5.0)
    (first, *_) = world.recorder.events
    assert first.give_up_time.ToDatetime() == (world.time.start + timedelta(seconds=5)).replace(tzinfo=None)


async def test_the_agents_time_does_not_begin_anew_for_what_it_waits_for(world: World) -> None:
    waiting = asyncio.create_task(ask(world, Provider(world, 1e9), time_left=20.0))
    while len(world.time.slept) < 3:  # noqa: ASYNC110 - it is our own clock
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    with pytest.raises(FailedPrecondition, match="max_execution_time") as failed:
        await ask(world, Provider(world, 1e9), time_left=1000.0)
    assert failed.value.reason == "TASK_FAILED"
    assert world.time.seconds <= 20


async def test_a_run_that_only_waits_gives_up_its_slot_once_it_has_waited_long_enough(world: World) -> None:
    with world.activity.task(0):
        await ask(world, Provider(world, 50))
    assert [(wait.failures, wait.model) for (wait,) in world.rests] == [(5, "m"), (6, "m")]
    assert all(wait.retry_at - wait.since > timedelta(seconds=30) for (wait,) in world.rests)


async def test_a_pause_beyond_the_agents_limit_keeps_its_slot(world: World) -> None:
    with world.activity.task(0):
        await ask(world, Provider(world, 40, down(retry_after=40.0)), time_left=35.0)
    assert world.rests == []


async def test_nothing_is_given_up_while_anything_else_goes_on(world: World) -> None:
    asleep, awake = asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        asleep.set()
        await awake.wait()
        world.time.seconds += 40

    world.waits._sleep = sleep
    with world.activity.task(0):
        with world.activity.task(1):
            waiting = asyncio.create_task(ask(world, Provider(world, 40, down(retry_after=40.0))))
            await asleep.wait()
            assert world.rests == [], "another task is at work"
            world.activity.begin(0)
        assert world.rests == [], "a tool of the task is at work"
        world.activity.end(0)
        assert [wait.task_name for (wait,) in world.rests] == ["t0"]
        awake.set()
        assert await waiting == "answer"


async def test_two_models_are_waited_for_together(world: World) -> None:
    both = asyncio.Barrier(3)

    async def sleep(_: float) -> None:
        await both.wait()
        world.time.seconds = 50

    world.waits._sleep = sleep
    with world.activity.task(0), world.activity.task(1):
        calls = [
            asyncio.create_task(ask(world, Provider(world, 40, down(retry_after=40.0)), index=0)),
            asyncio.create_task(ask(world, Provider(world, 40, down(retry_after=45.0)), index=1, model="n")),
        ]
        await both.wait()
        await asyncio.gather(*calls)
    assert [[wait.model for wait in waits] for waits in world.rests] == [["m", "n"]]


async def test_the_next_run_goes_on_with_a_wait(world: World) -> None:
    start = world.time.start
    known = ModelWait(
        task_index=0,
        task_name="t0",
        model="m",
        reason="UPSTREAM_UNAVAILABLE",
        message="down",
        failures=5,
        since=start - timedelta(seconds=50),
        retry_at=start + timedelta(seconds=2),
        give_up_at=start + timedelta(seconds=10),
    )
    world.waits = ModelWaits(
        [known],
        world.waits._patience,
        world.waits._recorder,
        world.activity,
        world.rests.append,
        clock=world.time.now,
        sleep=world.time.sleep,
    )
    provider = Provider(world, 1e9)
    with pytest.raises(Unavailable):
        await ask(world, provider)
    assert provider.calls == [2.0], "not before its time, and the next pause is longer than there is patience"
