"""Waiting for what nothing announces."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator

PATIENCE = 60
"""Seconds after which what has not happened will not: nothing of a test depends on their number."""
_TURNS = 200
_PAUSE_SECONDS = 0.005


async def until(condition: Callable[[], object | Awaitable[object]], what: str = "what is waited for") -> None:
    """Wait until a condition holds: of other tasks, which go on meanwhile, or of other processes.

    Raises:
        AssertionError: it does not hold within `PATIENCE`.
    """
    turns = 0
    patience = asyncio.timeout(PATIENCE)
    try:
        async with patience:
            while not await _holds(condition):
                # Most conditions are of tasks that have something to do; the others are not looked at all the time.
                await asyncio.sleep(0 if turns < _TURNS else _PAUSE_SECONDS)
                turns += 1
    except TimeoutError:
        if not patience.expired():
            raise
        raise AssertionError(f"not within {PATIENCE} s: {what}") from None


def longer(first: float) -> Iterator[float]:
    """Yield times in seconds to try with, each twice as long as the last: a busy machine may be too slow for the first.

    A loop over them is left once its try got far enough.

    Raises:
        AssertionError: it did not with any time up to `PATIENCE`.
    """
    seconds = first
    while seconds <= PATIENCE:
        yield seconds
        seconds *= 2
    raise AssertionError(f"no try got far enough, though the last one had {seconds / 2:.1f} s")


async def _holds(condition: Callable[[], object | Awaitable[object]]) -> bool:
    held = condition()
    return bool(await held if inspect.isawaitable(held) else held)
