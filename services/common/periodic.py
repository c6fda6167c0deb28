"""Work that comes round again and again."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.common.errors import DeadlineExceeded, Unavailable

logger = structlog.get_logger(__name__)


async def every(
    seconds: float | Callable[[], float],
    action: Callable[[], Awaitable[object]],
    *,
    name: str,
    first_pause: bool = True,
) -> None:
    """Do `action` again and again, with a pause before each time, until cancelled.

    A failure is logged under `name`, and the next time comes all the same; without `first_pause` the first one comes at
    once.
    """
    if not first_pause:
        await once(action, name)
    while True:
        await asyncio.sleep(seconds() if callable(seconds) else seconds)
        await once(action, name)


async def once(action: Callable[[], Awaitable[object]], name: str) -> None:
    """Do `action`, and log a failure under `name` instead of raising it."""
    try:
        await action()
    except (Unavailable, DeadlineExceeded) as error:
        # Something needed is away: that is the news, and not where we were when we found out.
        logger.warning("periodic_postponed", name=name, reason=error.reason, error=error.message)
    except Exception:
        logger.exception("periodic_failed", name=name)
