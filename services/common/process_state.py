"""Where a process is in its life, for itself and for probes from outside: starting, taking work, or asked to stop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from prometheus_client import Histogram

ResultT = TypeVar("ResultT")

TURN_SECONDS = 0.5
SILENT_SECONDS = 10.0
"""How long an event loop may show nothing before the process counts as hanging."""

LAG = Histogram(
    "coxswain_event_loop_lag_seconds",
    "Seconds by which the event loop was late, looked at twice a second.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


class ProcessState:
    """Shared by the event loop and the thread that answers probes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned_at = clock()
        self._takes_work = False
        self._works: Callable[[], bool] = lambda: True
        self.stop = asyncio.Event()
        """Set by SIGTERM and SIGINT."""

    async def watch_loop(self) -> None:
        """Show that the event loop turns, until cancelled."""
        while True:
            began = self._clock()
            await asyncio.sleep(TURN_SECONDS)
            self._turned_at = self._clock()
            LAG.observe(max(0.0, self._turned_at - began - TURN_SECONDS))

    def take_work(self, works: Callable[[], bool] = lambda: True) -> None:
        """Say that the process is ready until it is asked to stop. `works` tells whether it works, beside its loop."""
        self._works = works
        self._takes_work = not self.stop.is_set()

    def begin_stop(self) -> None:
        """Ask the process to stop: it takes no new work."""
        self._takes_work = False
        self.stop.set()

    @property
    def alive(self) -> bool:
        """Whether the process works: if not, it has to be started again. No peer and no database counts here."""
        return self._clock() - self._turned_at < SILENT_SECONDS and self._works()

    @property
    def ready(self) -> bool:
        """Whether new work may be sent to it."""
        return self._takes_work and self.alive

    async def unless_stopped(self, start: Awaitable[ResultT]) -> ResultT | None:
        """Return what a part of the start returns; None, with that cancelled, when the process is asked to stop first.

        Raises:
            Exception: what `start` raises.
        """
        starting, stopping = asyncio.ensure_future(start), asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                return starting.result()
            starting.cancel()
            await asyncio.wait({starting})
            return None
        finally:
            stopping.cancel()
            # An error holds this frame by its traceback, and the frame would hold the error by its task: what the start
            # has made would be released long after, when the event loop is closed.
            del starting, stopping
