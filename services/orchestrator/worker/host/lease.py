"""This host's lease: shows others that it lives, and the host itself when it has to stop."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog
from sqlalchemy.exc import DBAPIError

from services.orchestrator.worker.host.metrics import LEASE_LOSSES

logger = structlog.get_logger(__name__)

_SAFETY = 0.2
"""Share of the lease before whose end crew processes have to be gone: others may take over right at the end."""
_TURN_SECONDS = 0.5
"""How often the event loop shows that it works."""
_AGAIN_SECONDS = 0.5
"""Pause after a renewal that failed."""

_UNREACHABLE = (OSError, DBAPIError)


class LeaseLine(Protocol):
    """What the keeper needs of `LeaseConnection`, which see."""

    def renew(self) -> bool: ...
    def end(self) -> None: ...
    def wait(self, seconds: float) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


class LeaseKeeper:
    """Renews the lease in a thread, for as long as the event loop works.

    When the lease has run out, or cannot be renewed before its end, it calls `on_lost`; nothing may continue until
    `held`. A renewal that comes late, but finds the lease unexpired, has lost nothing, whatever the clock says.
    """

    def __init__(
        self,
        line: LeaseLine,
        *,
        ttl: float,
        interval: float,
        on_lost: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ttl` and `interval` are in seconds. `on_lost` is called on the event loop."""
        self._line = line
        self._ttl = ttl
        self._interval = interval
        self._on_lost = on_lost
        self._clock = clock
        self._turned_at = clock()
        self._good_until: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew_forever, name="coxswain-lease", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.held = asyncio.Event()
        """Set while the lease is certain."""

    @property
    def silent_seconds(self) -> float:
        """How long this host has not shown that it lives: what hangs has to be started again.

        A database that is away is no reason: starting again would not help.
        """
        return self._clock() - self._turned_at

    async def run(self) -> None:
        """Renew the lease until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        try:
            while self._thread.is_alive():
                self._turned_at = self._clock()
                await asyncio.sleep(_TURN_SECONDS)
        finally:
            self._stopping.set()
            self._line.wake()

    async def give_up(self) -> None:
        """Let others take over at once. After `run`."""
        self._stopping.set()
        if self._thread.is_alive():
            self._line.wake()
            await asyncio.to_thread(self._thread.join, self._ttl)

    # ---- in the thread

    def _renew_forever(self) -> None:
        while not self._stopping.is_set():
            # A loop that hangs does no work: others shall have it.
            works = self.silent_seconds <= self._ttl
            self._line.wait(self._interval if works and self._renew() else _AGAIN_SECONDS)
        try:
            self._line.end()
        except _UNREACHABLE as error:
            logger.warning("lease_not_given_up", error=type(error).__name__)
        self._line.close()

    def _renew(self) -> bool:
        """Renew once; return whether the database has confirmed it."""
        began = self._clock()
        try:
            kept = self._line.renew()
        except _UNREACHABLE:
            self._give_in("database")
            return False
        except Exception:
            # A host that stopped trying would never work again.
            logger.exception("lease_not_renewed")
            self._give_in("database")
            return False
        if not kept:
            self._lose("expired")
        # The database counted from some moment after `began`.
        self._good_until = began + self._ttl * (1 - _SAFETY)
        self._on_loop(self._hold)
        return True

    def _give_in(self, why: str) -> None:
        if self._good_until is not None and self._clock() >= self._good_until:
            self._lose(why)

    def _lose(self, why: str) -> None:
        if self._good_until is None:
            return  # there was none
        self._good_until = None
        LEASE_LOSSES.inc()
        logger.warning("lease_lost", why=why)
        self._on_loop(self._stop)

    def _on_loop(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call)

    # ---- on the loop

    def _hold(self) -> None:
        self.held.set()

    def _stop(self) -> None:
        self.held.clear()
        self._on_lost()
