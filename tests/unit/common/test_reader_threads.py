"""What threads read reaches who waits for it, whatever comes of it, and nothing is lost when they end."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from services.common.db.reader_threads import ReaderThreads


@pytest.fixture
async def threads() -> AsyncIterator[ReaderThreads]:
    threads = ReaderThreads(1, "test-read")
    yield threads
    await threads.close()


async def test_work_is_done_in_a_thread_of_theirs(threads: ReaderThreads) -> None:
    assert await threads.run(lambda: threading.current_thread().name) == "test-read-0"


async def test_an_error_reaches_its_caller_and_the_thread_goes_on(threads: ReaderThreads) -> None:
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 1, 0)

    assert await threads.run(divmod, 7, 2) == (3, 1)


async def test_work_whose_caller_has_gone_is_not_begun(threads: ReaderThreads) -> None:
    busy, done = threading.Event(), list[int]()
    first = asyncio.create_task(threads.run(busy.wait))
    second = asyncio.create_task(threads.run(done.append, 1))
    await asyncio.sleep(0)
    second.cancel()
    busy.set()

    assert await first
    await threads.run(done.append, 2)
    assert done == [2]


async def test_who_goes_while_work_is_done_disturbs_nobody(threads: ReaderThreads) -> None:
    begun, busy = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        busy.wait()

    gone = asyncio.create_task(threads.run(work))
    await asyncio.to_thread(begun.wait)
    gone.cancel()
    busy.set()

    assert await threads.run(lambda: "next") == "next"


async def test_the_end_waits_for_what_was_begun() -> None:
    threads, done = ReaderThreads(2, "test-read"), list[int]()
    begun = [asyncio.create_task(threads.run(done.append, number)) for number in range(20)]
    await asyncio.sleep(0)

    await threads.close()

    await asyncio.gather(*begun)
    assert sorted(done) == list(range(20))
