"""When calls arrive at a listener, so that it can stop between them."""

import asyncio
import time
from collections.abc import Callable

from services.common.errors import Unavailable

_QUIET_SECONDS = 0.1
"""A listener without arrivals for so long has read what had come, and its clients have gone elsewhere."""
_ACCEPTING_SECONDS = 5.0
"""Clients that do not watch health get new calls accepted for so long."""
_REFUSING_SECONDS = 0.3
_RETRY_SECONDS = 0.1


class Arrivals:
    """Lets calls in until its listener stops.

    gRPC cancels at its stop whatever it has received and nobody has read yet, and clients do not repeat what was
    cancelled. So a listener first says that it does not serve, which clients that watch its health follow at once;
    reads on until nothing comes; then refuses what still comes in a way that clients repeat elsewhere.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._refusing = False

    def let_in(self) -> None:
        """Count a call that has arrived.

        Raises:
            Unavailable: OVERLOADED, the listener is about to stop.
        """
        self._last = self._clock()
        if self._refusing:
            raise Unavailable(
                "this server is shutting down; try another one", reason="OVERLOADED", retry_after=_RETRY_SECONDS
            )

    async def end(self) -> None:
        """Return when the listener can stop."""
        await self._until_quiet(_ACCEPTING_SECONDS)
        self._refusing = True
        await self._until_quiet(_REFUSING_SECONDS)

    async def _until_quiet(self, longest: float) -> None:
        began = self._clock()
        # A loop that stood still until now has yet to read what came meanwhile.
        self._last = began
        while (now := self._clock()) - self._last < _QUIET_SECONDS and now - began < longest:  # noqa: ASYNC110 - it waits for time
            await asyncio.sleep(min(_QUIET_SECONDS - (now - self._last), longest - (now - began)))
