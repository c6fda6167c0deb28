"""This host's lease: shows others that it lives, and the host itself when it has to stop."""

import asyncio
import os
import socket
import time
from collections.abc import Callable

import structlog

from services.common.errors import DeadlineExceeded
from services.common.periodic import every
from services.orchestrator.worker.host.run_store import RunStore

logger = structlog.get_logger(__name__)

_SAFETY = 0.2
"""Share of the lease before whose end crew processes have to be gone: others may take over right at the end."""


class LeaseKeeper:
    """Renews the lease. If it cannot, or wakes up too late, it calls `on_lost`; nothing may continue until `held`."""

    def __init__(
        self,
        store: RunStore,
        executor_id: str,
        *,
        ttl: float,
        interval: float,
        on_lost: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ttl` and `interval` are in seconds; `clock` has to run while the process is stopped."""
        self._store = store
        self._executor_id = executor_id
        self._ttl = ttl
        self._interval = interval
        self._on_lost = on_lost
        self._clock = clock
        self._good_until = 0.0
        self.held = asyncio.Event()
        """Set while the lease is certain."""

    async def run(self) -> None:
        """Renew the lease until cancelled."""
        watching = asyncio.create_task(self._watch())
        try:
            # After every failure: a host that stopped trying would never work again.
            await every(self._interval, self._renew, name="lease", first_pause=False)
        finally:
            watching.cancel()

    async def give_up(self) -> None:
        """Let others take over at once."""
        await self._store.give_up_lease(self._executor_id)

    async def _renew(self) -> None:
        self._check()
        began = self._clock()
        try:
            async with asyncio.timeout(self._ttl):
                await self._store.renew_lease(self._executor_id, socket.gethostname(), os.getpid(), self._ttl)
        except TimeoutError as error:
            raise DeadlineExceeded("the lease was not renewed within its time") from error
        # The database counted from some moment after `began`.
        self._good_until = began + self._ttl * (1 - _SAFETY)
        self._check()
        if self._clock() < self._good_until:
            self.held.set()

    def _check(self) -> None:
        if self.held.is_set() and self._clock() >= self._good_until:
            logger.warning("lease_lost")
            self.held.clear()
            self._on_lost()

    async def _watch(self) -> None:
        while True:
            await self.held.wait()
            await asyncio.sleep(max(0.0, self._good_until - self._clock()))
            self._check()
