"""Groups take turns at few places: whatever one asks for, another waits for one of its turns, and no place is lost."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.background import BackgroundTasks
from services.common.cache import AsyncCache
from services.common.group_turns import GroupTurns, group_of_work, working_for
from tests.support.waiting import until


class Queue:
    """Those who wait at places that are all taken, and in which order they get one."""

    def __init__(self, places: int = 1) -> None:
        self.turns, self.served = GroupTurns(places), list[str]()
        self.tasks = list[asyncio.Task[None]]()

    async def wait(self, group: str, *, holding: asyncio.Event | None = None) -> None:
        async with self.turns.place(group):
            self.served.append(group)
            await (holding.wait() if holding is not None else asyncio.sleep(0))

    async def fill(self, *groups: str) -> asyncio.Event:
        """Take every place until the result is set, and let one wait for each of `groups`, in that order."""
        held = asyncio.Event()
        while not self.turns.full():
            self.tasks.append(asyncio.create_task(self.wait("holder", holding=held)))
            await asyncio.sleep(0)
        for group in groups:
            self.tasks.append(asyncio.create_task(self.wait(group)))
        await asyncio.sleep(0)
        self.served.clear()
        return held


@settings(max_examples=15, deadline=None)
@given(groups=st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), places=st.integers(1, 3))
def test_no_group_is_served_twice_while_another_waits_since_before(groups: list[str], places: int) -> None:
    async def served() -> list[str]:
        queue = Queue(places)
        held = await queue.fill(*groups)
        held.set()
        await asyncio.gather(*queue.tasks)
        return queue.served

    order = asyncio.run(served())
    assert sorted(order) == sorted(groups)
    for group in set(groups):
        for turn in range(groups.count(group)):
            before = order[: [place for place, one in enumerate(order) if one == group][turn]]
            # All came at the same time: each other group has had a turn for each of this one's, and one more.
            assert all(before.count(other) <= turn + 1 for other in set(groups) - {group})


@settings(max_examples=25, deadline=None)
@given(
    groups=st.lists(st.sampled_from("abc"), min_size=1, max_size=20),
    cancelled=st.sets(st.integers(0, 19)),
    rounds=st.lists(st.integers(0, 3), min_size=20, max_size=20),
    places=st.integers(1, 3),
)
def test_whoever_is_cancelled_at_whatever_moment_takes_no_place_along(
    groups: list[str], cancelled: set[int], rounds: list[int], places: int
) -> None:
    async def cancel_some() -> None:
        queue = Queue(places)
        held = await queue.fill(*groups)
        waiting = queue.tasks[places:]
        held.set()
        for number in sorted(cancelled):
            for _ in range(rounds[number]):
                await asyncio.sleep(0)
            if number < len(waiting):
                waiting[number].cancel()
        async with asyncio.timeout(60):
            await asyncio.gather(*queue.tasks, return_exceptions=True)
        # Every place is there again.
        for _ in range(places):
            assert not queue.turns.full()
            await queue.turns.take("d")
        assert queue.turns.full()

    asyncio.run(cancel_some())


async def test_who_gives_up_at_a_deadline_leaves_the_line_to_others() -> None:
    queue = Queue()
    held = await queue.fill()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await queue.turns.take("a")
    behind = asyncio.create_task(queue.wait("a"))
    held.set()
    await behind
    assert queue.served == ["a"]


async def test_a_task_works_for_the_group_of_its_call_until_the_call_ends() -> None:
    seen = list[str]()
    ended = asyncio.Event()

    async def look() -> None:
        seen.append(group_of_work())
        await ended.wait()
        seen.append(group_of_work())

    with working_for("a"):
        task = asyncio.create_task(look())
        await until(lambda: bool(seen))
    ended.set()
    await task
    assert seen == ["a", ""]
    assert group_of_work() == ""


async def test_what_runs_beside_calls_works_for_nobody() -> None:
    seen = list[str]()

    async def look() -> None:
        seen.append(group_of_work())

    with working_for("a"):
        await BackgroundTasks().start(look())
        assert group_of_work() == "a"
    assert seen == [""]


async def test_two_groups_that_wait_for_one_cold_value_wait_for_none_of_the_first_ones_turns() -> None:
    """A credential that both need, and that the group asked for first that has filled the line."""
    queue = Queue()
    held = await queue.fill(*["loud"] * 50)
    cache = AsyncCache[str, str](10, 60)
    served = 0

    async def resolve() -> str:
        nonlocal served
        async with queue.turns.place(group_of_work()):
            served = len(queue.served)
            return "token"

    async def ask(group: str) -> str:
        with working_for(group):
            return await cache.get("operator's", resolve)

    loud = asyncio.create_task(ask("loud"))
    quiet = asyncio.create_task(ask("quiet"))
    await asyncio.sleep(0)
    held.set()
    async with asyncio.timeout(60):
        assert list(await asyncio.gather(loud, quiet)) == ["token", "token"]
    assert served <= 2, "the load waited in the line of one group"
    for task in queue.tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*queue.tasks)
