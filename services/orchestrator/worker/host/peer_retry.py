"""Asks a service that does not answer again, for a while: restarts and rollouts of others are no failure of a task."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.common.errors import CoxswainError, DeadlineExceeded, Unavailable

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.2
_LAST_PAUSE_SECONDS = 5.0


def worth_waiting(error: CoxswainError) -> bool:
    """Tell whether a failure is another service's absence rather than its answer."""
    absent = isinstance(error, Unavailable | DeadlineExceeded)
    return absent and error.reason in {"DEPENDENCY_UNAVAILABLE", "OVERLOADED"}


async def patiently(call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Return what `call` returns, calling again for `seconds` while the other service is absent.

    Raises:
        CoxswainError: the other service refused, or stayed absent.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await call()
        except CoxswainError as error:
            if not worth_waiting(error) or loop.time() + pause > end:
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LAST_PAUSE_SECONDS)
