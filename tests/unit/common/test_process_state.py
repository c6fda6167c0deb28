"""What a process knows of itself: that its event loop turns, that it takes work, that it was asked to stop."""

import asyncio
import time
from collections.abc import Callable

import pytest

from services.common import process_state
from services.common.process_state import ProcessState
from tests.support.waiting import until


def hold_up_until(done: Callable[[], bool]) -> None:
    """Let the event loop stand still."""
    while not done():
        time.sleep(0.01)


async def test_a_loop_that_stands_still_is_noticed_and_so_is_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_state, "SILENT_SECONDS", 1.0)
    state = ProcessState()
    state.take_work()
    watching = asyncio.create_task(state.watch_loop())
    hold_up_until(lambda: not state.alive)
    assert [state.alive, state.ready] == [False, False]
    await until(lambda: state.alive)
    assert [state.alive, state.ready] == [True, True]
    watching.cancel()


async def test_what_starts_ends_when_the_process_is_asked_to_stop() -> None:
    state, ended = ProcessState(), asyncio.Event()

    async def start() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "started"

    waiting = asyncio.create_task(state.unless_stopped(start()))
    await asyncio.sleep(0)
    state.begin_stop()
    assert await waiting is None
    assert ended.is_set()


async def test_what_a_start_returns_and_raises_is_passed_on() -> None:
    state = ProcessState()

    async def fail() -> None:
        raise ValueError("no")

    async def work() -> int:
        return 7

    assert await state.unless_stopped(work()) == 7
    with pytest.raises(ValueError, match="no"):
        await state.unless_stopped(fail())


async def test_a_process_that_was_asked_to_stop_while_it_started_is_never_ready() -> None:
    state = ProcessState()
    state.begin_stop()
    state.take_work()
    assert not state.ready
