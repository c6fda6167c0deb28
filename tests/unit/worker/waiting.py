"""Waiting for what nobody tells of."""

import asyncio
from collections.abc import Callable

PATIENCE = 60
"""Seconds after which what has not happened will not: nothing of a test depends on their number."""


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Let others run until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nobody could tell us
            await asyncio.sleep(0)
