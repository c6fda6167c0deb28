import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from structlog.testing import capture_logs

from services.common.errors import Unavailable
from services.common.periodic import every
from tests.support.waiting import until


async def run_until(count: int, outcomes: Callable[[int], None], **options: Any) -> int:
    """Let `every` run until its action was called `count` times."""
    done = asyncio.Event()
    calls = 0

    async def action() -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            done.set()
        outcomes(calls)

    task = asyncio.create_task(every(0, action, name="sweep", **options))
    await done.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return calls


def fail_at(number: int, error: Exception) -> Callable[[int], None]:
    def outcome(call: int) -> None:
        if call == number:
            raise error

    return outcome


async def test_a_failure_is_logged_with_its_traceback_and_the_next_time_comes() -> None:
    with capture_logs() as logs:
        assert await run_until(3, fail_at(1, ZeroDivisionError("x"))) >= 3
    assert [(entry["event"], entry["name"], entry.get("exc_info")) for entry in logs] == [
        ("periodic_failed", "sweep", True)
    ]


async def test_what_is_needed_and_away_is_logged_without_a_traceback() -> None:
    with capture_logs() as logs:
        await run_until(2, fail_at(1, Unavailable("the auth service does not answer")))
    assert [(entry["event"], entry["log_level"], "exc_info" in entry) for entry in logs] == [
        ("periodic_postponed", "warning", False)
    ]


async def test_the_first_time_comes_after_a_pause_or_at_once() -> None:
    async def first(*, first_pause: bool) -> int:
        calls = 0

        async def action() -> None:
            nonlocal calls
            calls += 1

        task = asyncio.create_task(every(60, action, name="sweep", first_pause=first_pause))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        return calls

    assert await first(first_pause=True) == 0
    assert await first(first_pause=False) == 1


async def test_the_pause_is_asked_for_each_time() -> None:
    pauses = iter([0.0, 0.0, 60.0])
    calls = 0

    async def action() -> None:
        nonlocal calls
        calls += 1

    task = asyncio.create_task(every(lambda: next(pauses), action, name="sweep"))
    await until(lambda: calls == 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (calls, next(pauses, None)) == (2, None)
    task.cancel()
