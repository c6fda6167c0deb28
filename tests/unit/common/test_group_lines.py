"""A group's calls wait for each other and never for another group's line, and no turn is lost."""

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.feed_topics import Topic
from services.common.group_lines import GroupLines, wait_without_turn
from tests.support.waiting import until


def nobody() -> bool:
    return False


class HastyLoop(asyncio.SelectorEventLoop):
    """Where nothing is to be done, its clock is put on to the next time at which there is."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = selectors.DefaultSelector()
        select = selector.select

        def hasty(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            assert timeout is not None, "everybody waits for ever"
            self.now += timeout
            return select(0)

        selector.select = hasty  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run_at_once(main: Callable[[], Awaitable[Any]]) -> None:
    """Run something to its end without waiting for the clock."""

    async def run() -> None:
        await main()

    with asyncio.Runner(loop_factory=HastyLoop) as runner:
        runner.run(run())


class Calls:
    """Calls that are worked on until `end` is set."""

    def __init__(self, lines: GroupLines, longest_seconds: float = 1000.0) -> None:
        self.lines, self.longest_seconds = lines, longest_seconds
        self.at_work, self.begun = list[str](), list[str]()
        self.end = asyncio.Event()
        self.tasks = list[asyncio.Task[None]]()

    async def call(self, group: str, *, heavy: bool = False, rest: bool = False) -> None:
        async with self.lines.turn(group, self.longest_seconds, nobody, heavy=heavy):
            self.begun.append(group)
            self.at_work.append(group)
            if rest:
                wait_without_turn()
            await self.end.wait()
            self.at_work.remove(group)

    async def make(self, number: int, group: str, *, heavy: bool = False, rest: bool = False) -> None:
        self.tasks += [asyncio.create_task(self.call(group, heavy=heavy, rest=rest)) for _ in range(number)]
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return seconds by which the clock of the loop is ahead."""
    loop = asyncio.get_running_loop()
    ahead, now = [0.0], loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + ahead[0])
    return ahead


async def test_another_groups_call_waits_for_none_of_500_that_wait_before_it() -> None:
    calls = Calls(GroupLines(2, alone=8))
    await calls.make(500, "loud")
    assert calls.at_work == ["loud"] * 8
    await calls.make(1, "quiet")
    assert calls.begun == ["loud"] * 8 + ["quiet"]
    calls.end.set()
    await asyncio.gather(*calls.tasks)


async def test_a_group_has_few_turns_after_another_has_called_and_more_once_it_is_alone(clock: list[float]) -> None:
    calls = Calls(GroupLines(2, alone=8))
    await calls.make(1, "quiet")
    await calls.make(500, "loud")
    assert calls.at_work == ["quiet", "loud", "loud"]
    clock[0] = 2.0
    later = Calls(calls.lines)
    await later.make(1, "loud")
    calls.tasks[1].cancel()
    await until(lambda: calls.at_work.count("loud") + later.at_work.count("loud") >= 8)
    calls.end.set()
    later.end.set()
    await asyncio.gather(*calls.tasks, *later.tasks, return_exceptions=True)
    assert calls.begun.count("loud") + later.begun.count("loud") == 501


async def test_a_group_has_few_turns_while_streams_of_another_respond(clock: list[float]) -> None:
    calls = Calls(GroupLines(2, alone=8))
    clock[0] = 2.0
    calls.lines.note_stream("quiet")
    await calls.make(500, "loud")
    assert calls.at_work == ["loud"] * 2
    calls.end.set()
    await asyncio.gather(*calls.tasks)


async def test_heavy_calls_are_not_more_at_once_when_their_group_is_alone() -> None:
    calls = Calls(GroupLines(2, alone=8))
    await calls.make(20, "loud", heavy=True)
    assert calls.at_work == ["loud", "loud"]
    calls.end.set()
    await asyncio.gather(*calls.tasks)


async def test_other_calls_of_a_group_do_not_wait_behind_its_heavy_ones() -> None:
    calls = Calls(GroupLines(2, alone=8))
    await calls.make(20, "loud", heavy=True)
    await calls.make(1, "loud")
    assert len(calls.at_work) == 3
    calls.end.set()
    await asyncio.gather(*calls.tasks)


async def test_calls_that_wait_for_something_outside_hold_no_turn() -> None:
    calls = Calls(GroupLines(2, alone=2))
    await calls.make(300, "loud", rest=True)
    await until(lambda: calls.at_work == ["loud"] * 300)
    calls.end.set()
    await asyncio.gather(*calls.tasks)


async def test_who_waits_for_news_of_a_topic_holds_no_turn() -> None:
    lines, topic, waiting = GroupLines(1, alone=1), Topic(), list[int]()

    async def follow(number: int) -> None:
        async with lines.turn("loud", 1000.0, nobody):
            waiting.append(number)
            await topic.changed.wait()

    tasks = [asyncio.create_task(follow(number)) for number in range(10)]
    await until(lambda: len(waiting) == 10)
    topic.wake()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("others", ["calls", "streams", "own streams", "former streams", "nobody"])
async def test_a_turn_is_handed_on_after_a_pause_only_while_others_work(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], others: str
) -> None:
    used = 0.0
    monkeypatch.setattr(time, "process_time", lambda: used)
    lines, served = GroupLines(1, alone=1), list[int]()
    first = asyncio.Event()
    others_work = others in ("calls", "streams")
    if "streams" in others:
        lines.note_stream("loud" if others == "own streams" else "quiet")
    clock[0] = 2.0 if others == "former streams" else 0.0

    async def take(number: int) -> None:
        nonlocal used
        async with lines.turn("loud", 1000.0, lambda: others == "calls"):
            served.append(number)
            await first.wait()
            used += 100.0

    tasks = [asyncio.create_task(take(number)) for number in range(3)]
    await until(lambda: served == [0])
    first.set()
    # Nobody had waited when the first one began, so its work was not measured.
    await until(lambda: served[:2] == [0, 1])
    for _ in range(20):
        await asyncio.sleep(0)
    assert served == ([0, 1] if others_work else [0, 1, 2])
    clock[0] = 203.0
    await until(lambda: served == [0, 1, 2])
    await asyncio.gather(*tasks)


async def test_who_holds_a_turn_for_too_long_goes_on_without_it(clock: list[float]) -> None:
    calls = Calls(GroupLines(1, alone=1), 100.0)
    await calls.make(2, "loud")
    assert len(calls.at_work) == 1
    clock[0] = 101.0
    await until(lambda: len(calls.at_work) == 2)
    calls.end.set()
    await asyncio.gather(*calls.tasks)


def test_the_end_of_a_pause_begins_the_time_that_a_turn_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(time, "process_time", lambda: asyncio.get_running_loop().time())
        lines, begun = GroupLines(1, alone=1), list[int]()

        async def call(number: int, seconds: float) -> None:
            async with lines.turn("loud", 10.0, lambda: True):
                begun.append(number)
                await asyncio.sleep(seconds)

        tasks = [asyncio.create_task(call(number, seconds)) for number, seconds in enumerate((1.0, 8.0))]
        await asyncio.sleep(1.5)
        # The second one ends, as others wait, with a pause: nobody holds a turn when its own time would be over.
        tasks += [asyncio.create_task(call(2, 3600.0)), asyncio.create_task(call(3, 0.0))]
        await asyncio.wait(tasks[3:], timeout=60.0)
        assert begun == [0, 1, 2, 3]
        await asyncio.gather(*tasks)

    run_at_once(scenario)


@dataclass(frozen=True, slots=True)
class Planned:
    """A call of a made-up day; times in tenths of a second."""

    group: str
    heavy: bool
    comes: int
    takes: int
    cancelled: int | None
    """After how long it is cancelled, wherever it is by then."""
    fails: bool
    rests: bool
    """Whether it hands its turn on in the middle."""


planned = st.builds(
    Planned,
    st.sampled_from(["loud", "other"]),
    st.booleans(),
    st.integers(0, 30),
    st.integers(0, 40),
    st.none() | st.integers(0, 60),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(planned, min_size=1, max_size=40), st.integers(0, 30), st.booleans())
def test_on_any_day_no_turn_is_lost_or_held_too_often_and_no_group_waits_for_another(
    day: list[Planned], quiet_comes: int, apart: bool
) -> None:
    """Where calls come `apart`, no two come at once, nor any when a turn is handed on: then their order is known."""
    longest, turns, alone = 1.0, 2, 4
    lines = GroupLines(turns, alone=alone)
    held = dict[tuple[str, bool], dict[int, float]]()
    came, begun = dict[tuple[str, bool], list[int]](), dict[tuple[str, bool], list[int]]()

    async def call(number: int, plan: Planned) -> None:
        await asyncio.sleep(plan.comes / 10 + apart * number * 1e-5)
        key, loop = (plan.group, plan.heavy), asyncio.get_running_loop()
        came.setdefault(key, []).append(number)
        holders = held.setdefault(key, {})
        try:
            async with lines.turn(plan.group, longest, lambda: True, heavy=plan.heavy):
                begun.setdefault(key, []).append(number)
                holders[number] = loop.time()
                lately = [began for began in holders.values() if loop.time() - began < longest - 0.001]
                assert len(lately) <= (turns if plan.heavy else alone)
                await asyncio.sleep(plan.takes / 20)
                if plan.rests:
                    wait_without_turn()
                    holders.pop(number)
                await asyncio.sleep(plan.takes / 20)
                if plan.fails:
                    raise ValueError
        finally:
            holders.pop(number, None)

    async def quiet() -> None:
        await asyncio.sleep(quiet_comes / 10)
        before = asyncio.get_running_loop().time()
        async with lines.turn("quiet", longest, lambda: True):
            assert asyncio.get_running_loop().time() == before

    async def live() -> None:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(call(number, plan)) for number, plan in enumerate(day)]
        for task, plan in zip(tasks, day, strict=True):
            if plan.cancelled is not None:
                loop.call_later((plan.comes + plan.cancelled) / 10, task.cancel)
        innocent = asyncio.create_task(quiet())
        # Each turn and each pause has a second at most, and at least two are handed on at once.
        _, late = await asyncio.wait([*tasks, innocent], timeout=3.0 + 4.0 + 2.0 * len(day))
        assert not late
        await innocent
        failures = [error for task in tasks if not task.cancelled() and (error := task.exception())]
        assert all(isinstance(error, ValueError) for error in failures)
        for key, numbers in begun.items() if apart else ():
            assert numbers == [number for number in came[key] if number in numbers]
        # As many as before begin at once, when all pauses are over.
        await asyncio.sleep(2 * longest)
        for group in ("loud", "other"):
            again = Calls(lines)
            await again.make(turns + 1, group, heavy=True)
            assert len(again.at_work) == turns
            again.end.set()
            await asyncio.gather(*again.tasks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "process_time", lambda: asyncio.get_running_loop().time())
        run_at_once(live)


def test_a_turn_that_is_too_long_already_ends_when_somebody_comes() -> None:
    """On the loop that servers use, whose timers for what is over do not say when they were due."""

    async def served() -> None:
        lines = GroupLines(1, alone=1)
        first_began, second_began = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            async with lines.turn("sales", 0.0, lambda: False):
                first_began.set()
                await second_began.wait()

        async def second() -> None:
            async with lines.turn("sales", 0.0, lambda: False):
                second_began.set()

        begun = asyncio.create_task(first())
        await first_began.wait()
        await asyncio.wait_for(second(), 60)
        await begun

    uvloop.run(served())
