"""Work that is repeated until it is cancelled."""

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
    """Repeat `action` until cancelled, with a pause before each run.

    A failure is logged under `name` and does not end the repetition. Without `first_pause` the first run is at once.
    """
    if not first_pause:
        await once(action, name)
    while True:
        await asyncio.sleep(seconds() if callable(seconds) else seconds)
        await once(action, name)


async def once(action: Callable[[], Awaitable[object]], name: str) -> bool:
    """Do `action`, and log a failure under `name` instead of raising it; return whether there was none."""
    try:
        await action()
        return True
    except (Unavailable, DeadlineExceeded) as error:
        # Another service or the database is away: a traceback would add nothing.
        logger.warning("periodic_postponed", name=name, reason=error.reason, error=error.message)
    except Exception:
        logger.exception("periodic_failed", name=name)
    return False
