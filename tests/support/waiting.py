"""Waiting for what nothing announces."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

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


async def _holds(condition: Callable[[], object | Awaitable[object]]) -> bool:
    held = condition()
    return bool(await held if inspect.isawaitable(held) else held)
