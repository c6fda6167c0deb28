"""Of many that are cancelled in one moment few end at a time, and each does end as cancelled."""

import asyncio

import pytest

from services.common.feed_topics import Topic
from services.common.group_lines import GroupLines
from services.common.paced_cancel import PacedFuture


async def test_of_hundreds_that_are_cancelled_at_once_two_end_in_each_round() -> None:
    ended = list[int]()

    async def wait(number: int) -> None:
        try:
            await PacedFuture[None](loop=asyncio.get_running_loop())
        finally:
            ended.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(300)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    before = 0
    while len(ended) < 300:
        await asyncio.sleep(0)
        assert len(ended) - before <= 2
        before = len(ended)
    assert ended == list(range(300))
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*tasks, return_exceptions=True)
    )


async def test_who_is_cancelled_gets_no_result_that_comes_meanwhile() -> None:
    future = PacedFuture[int](loop=asyncio.get_running_loop())
    assert future.cancel()
    assert not future.wanted
    future.set_result(1)
    with pytest.raises(asyncio.CancelledError):
        await future
    assert not future.cancel()


async def test_a_time_limit_ends_the_wait_for_news() -> None:
    topic = Topic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await topic.changed.wait()


async def test_news_reach_all_but_who_has_been_cancelled_before_them() -> None:
    topic = Topic()
    tasks = [asyncio.create_task(topic.changed.wait()) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[:9]:
        task.cancel()
    topic.wake()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True] * 9 + [False]


async def test_a_turn_goes_to_nobody_who_is_being_cancelled() -> None:
    lines, begun, gate = GroupLines(1, alone=1), list[int](), asyncio.Event()

    async def call(number: int) -> None:
        async with lines.turn("g", 1000.0, lambda: False):
            begun.append(number)
            await gate.wait()

    tasks = [asyncio.create_task(call(number)) for number in range(12)]
    await asyncio.sleep(0)
    for task in tasks[1:11]:
        task.cancel()
    gate.set()
    await asyncio.wait(tasks)
    assert begun == [0, 11]
