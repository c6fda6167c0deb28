"""When calls arrive at a listener, so that it can stop between them."""

import asyncio
import time
from collections.abc import Callable

from services.common.errors import Unavailable

_LOOK_SECONDS = 0.01
_MOST_LOOKS = 50
"""A listener at which so many looks have found no arrival has read what had come, and its clients have gone elsewhere.

Looks are counted, not seconds: on a machine with other work a process that reads nothing may only wait for its turn.
"""
_SHARE_OF_GRACE = 0.1
_ACCEPTING_SECONDS = 12.0
"""Clients that do not watch health get new calls accepted for so long."""
_REFUSING_SECONDS = 3.0
"""What has waited is refused after that, which clients may repeat: some hundred calls on a busy machine."""
_RETRY_SECONDS = 0.1


class Arrivals:
    """Lets calls in until its listener stops.

    gRPC cancels at its stop whatever it has received and nobody has read yet, and clients do not repeat what was
    cancelled. So a listener first says that it does not serve, which clients that watch its health follow at once;
    reads on until nothing comes; then refuses what still comes in a way that clients repeat elsewhere.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0
        self._refusing = False

    def let_in(self) -> None:
        """Count a call that has arrived.

        Raises:
            Unavailable: SHUTTING_DOWN, the listener is about to stop.
        """
        self._count += 1
        if self._refusing:
            raise Unavailable.shutting_down("this server is shutting down; try another one", _RETRY_SECONDS)

    async def end(self, grace: float) -> None:
        """Return when the listener can stop, of whose `grace` in seconds a tenth may go by without an arrival."""
        looks = min(_MOST_LOOKS, round(grace * _SHARE_OF_GRACE / _LOOK_SECONDS))
        quiet = await self._until_quiet(looks, _ACCEPTING_SECONDS)
        self._refusing = True
        if not quiet:
            await self._until_quiet(looks, _REFUSING_SECONDS)

    async def _until_quiet(self, looks: int, longest: float) -> bool:
        """Wait until so many looks find that nothing has come, at most `longest` seconds; return whether they did."""
        end = self._clock() + longest
        seen, quiet = self._count, 0
        while quiet < looks:
            if self._clock() >= end:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
            quiet = quiet + 1 if self._count == seen else 0
            seen = self._count
        return True
