"""Limits on many reads with one timer."""

import asyncio

import pytest

from services.models.providers.read_limit import ReadLimit

SHORT = 0.02


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_read_that_takes_too_long_ends_with_a_timeout() -> None:
    limit = ReadLimit()
    with pytest.raises(TimeoutError), limit.until(soon(SHORT)):
        await asyncio.Event().wait()
    assert limit.expired
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_each_read_has_its_own_time() -> None:
    limit = ReadLimit()
    for _ in range(4):
        # All together take longer than any of them may.
        with limit.until(soon(1.0)):
            await asyncio.sleep(SHORT)
    with pytest.raises(TimeoutError), limit.until(soon(SHORT)):
        await asyncio.Event().wait()
    limit.close()


async def test_a_timer_that_was_set_for_an_earlier_read_ends_no_later_one() -> None:
    limit = ReadLimit()
    with limit.until(soon(SHORT)):
        pass
    with limit.until(soon(5.0)):
        await asyncio.sleep(2 * SHORT)
    assert not limit.expired
    limit.close()


async def test_nothing_is_cancelled_between_two_reads() -> None:
    limit = ReadLimit()
    with limit.until(soon(SHORT)):
        pass
    await asyncio.sleep(2 * SHORT)
    assert not limit.expired
    # The timer is gone: the next read sets it anew.
    with pytest.raises(TimeoutError), limit.until(soon(SHORT)):
        await asyncio.Event().wait()


async def test_who_cancels_a_read_is_told_so() -> None:
    limit = ReadLimit()

    async def read() -> None:
        with limit.until(soon(5.0)):
            await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not limit.expired
    limit.close()


async def test_a_failure_of_a_read_stays_what_it_is() -> None:
    limit = ReadLimit()
    with pytest.raises(ConnectionResetError), limit.until(soon(5.0)):
        raise ConnectionResetError
    limit.close()


async def test_a_time_that_is_over_ends_a_read_that_waits() -> None:
    limit = ReadLimit()
    with pytest.raises(TimeoutError), limit.until(soon(-1.0)):
        await asyncio.Event().wait()
