import asyncio

import pytest

from services.common.background import BackgroundTasks


async def test_stop_cancels_all_tasks_and_waits_for_their_ends() -> None:
    started = asyncio.Semaphore(0)
    ended: list[str] = []

    async def work(name: str) -> None:
        started.release()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    tasks = BackgroundTasks()
    for name in ("first", "second"):
        tasks.start(work(name))
    for _ in range(2):
        await started.acquire()
    await tasks.stop()
    assert sorted(ended) == ["first", "second"]
    await tasks.stop()


async def test_a_task_that_fails_while_it_is_stopped_does_not_fail_the_stop() -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("late")

    tasks = BackgroundTasks()
    task = tasks.start(work())
    await asyncio.sleep(0)
    await tasks.stop()
    with pytest.raises(ValueError, match="late"):
        task.result()


async def test_new_tasks_can_start_after_a_stop() -> None:
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    tasks = BackgroundTasks()
    await tasks.stop()
    await tasks.start(work())
    assert done.is_set()
