"""Use cases of WorkerService."""

import contextlib
from collections.abc import Collection, Iterator

from services.common.db.database import Database
from services.common.errors import Unavailable
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.lease import Lease
from services.orchestrator.hints.bus import HintBus, Subscription
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.repositories.worker_slots import read_releases


class Workers:
    """Worker hosts, and the hints from and to those that the database cannot reach with hints."""

    def __init__(self, database: Database, leases: LeaseStore, bus: HintBus) -> None:
        self._database = database
        self._leases = leases
        self._bus = bus
        self._listening: set[Subscription] = set()
        self._draining = False

    async def alive(self) -> list[Lease]:
        """Return the leases of the hosts that are alive, oldest hosts first."""
        return await self._leases.alive()

    async def releases(self, executor_ids: Collection[str]) -> dict[str, str]:
        """Return the releases of those hosts that have said theirs, by their ids."""
        return await read_releases(self._database, executor_ids)

    async def ended(self, executor_id: str) -> None:
        """Let others take over what a host held whose process has ended."""
        await self._leases.end(executor_id)

    def publish(self, hint: Hint) -> None:
        """Pass on a host's hint."""
        self._bus.publish(hint)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Subscription]:
        """Listen for a host until the block ends."""
        with self._bus.subscribe(HintKind.EXECUTION_READY, HintKind.CANCEL_REQUESTED) as subscription:
            self._listening.add(subscription)
            try:
                self._refuse_when_draining()
                yield subscription
            finally:
                self._listening.discard(subscription)

    async def next_hints(self, subscription: Subscription) -> list[Hint]:
        """Wait for hints and return all there are.

        Raises:
            Unavailable: this process is shutting down, or hints may have been lost; listen again.
        """
        self._refuse_when_draining()
        hints = await subscription.take()
        if any(hint.kind is HintKind.RESYNC for hint in hints):
            raise Unavailable("hints may have been lost; subscribe again and read everything", retry_after=0.1)
        return hints

    def drain(self) -> None:
        """End the streams: their hosts listen elsewhere, or again."""
        self._draining = True
        for subscription in self._listening:
            subscription.wake()

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise Unavailable.shutting_down("this replica is shutting down; try another one", 0.2)
