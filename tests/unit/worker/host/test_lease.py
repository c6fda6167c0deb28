"""A host knows when it may no longer count itself among the living."""

import asyncio
import threading
from collections.abc import Callable
from typing import Self

from services.orchestrator.worker.host.lease import LeaseKeeper
from services.orchestrator.worker.host.metrics import LEASE_LOSSES
from tests.support.waiting import PATIENCE, until

TTL = 10.0


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Line:
    """A database whose answers can be chosen; used by the keeper's thread."""

    def __init__(self) -> None:
        self.renewals = 0
        self.tries = 0
        self.error: Exception | None = None
        self.kept = True
        self.meanwhile: Callable[[], None] = lambda: None
        self.said: list[str] = []
        self._woken = threading.Event()

    def renew(self) -> bool:
        self.tries += 1
        self.meanwhile()
        if self.error is not None:
            raise self.error
        self.renewals += 1
        kept, self.kept = self.kept, True
        return kept

    def end(self) -> None:
        self.said.append("end")

    def wait(self, seconds: float) -> None:
        self._woken.wait(0.001)

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        self.said.append("close")


class Keeping:
    """A keeper at work, whose renewals can be waited for."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.line = Line()
        self.line.kept = False  # there is no lease yet
        self.lost = 0
        self.keeper = LeaseKeeper(self.line, ttl=TTL, interval=0.001, on_lost=self._lose, clock=self.clock)
        self.task: asyncio.Task[None] | None = None

    def _lose(self) -> None:
        self.lost += 1

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.keeper.run())
        await asyncio.wait_for(self.keeper.held.wait(), PATIENCE)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.keeper.give_up()

    async def tried(self) -> None:
        """Wait for a renewal that has begun after this."""
        count = self.line.tries
        await until(lambda: self.line.tries > count + 1)


async def test_a_lease_that_is_renewed_is_held_and_given_up_at_the_end() -> None:
    async with Keeping() as keeping:
        for _ in range(5):
            keeping.clock.now += TTL / 2
            await keeping.tried()
        assert keeping.keeper.held.is_set()
        assert keeping.lost == 0
        assert keeping.line.said == []
    assert keeping.line.said == ["end", "close"]


async def test_an_error_nobody_foresaw_does_not_end_the_renewals() -> None:
    async with Keeping() as keeping:
        keeping.line.error = LookupError("not of a database")
        await keeping.tried()
        keeping.line.error = None
        count = keeping.line.renewals
        await until(lambda: keeping.line.renewals > count)
        assert keeping.keeper.held.is_set()
        assert keeping.lost == 0


async def test_a_lease_that_cannot_be_renewed_is_lost_before_others_may_think_so_and_counted_once() -> None:
    before = LEASE_LOSSES._value.get()
    async with Keeping() as keeping:
        keeping.line.error = ConnectionError("gone")
        keeping.clock.now += TTL * 0.75
        await keeping.tried()
        assert keeping.keeper.held.is_set()
        keeping.clock.now += TTL * 0.1
        await until(lambda: keeping.lost > 0)
        assert not keeping.keeper.held.is_set()
        keeping.clock.now += TTL
        await keeping.tried()
        assert keeping.lost == 1
        assert LEASE_LOSSES._value.get() == before + 1
        keeping.line.error = None
        await asyncio.wait_for(keeping.keeper.held.wait(), PATIENCE)


async def test_a_host_that_was_late_has_lost_nothing_if_its_lease_was_still_there() -> None:
    async with Keeping() as keeping:
        # Starved: by its own clock the lease has run out, but the row says otherwise.
        await until(lambda: keeping.keeper.silent_seconds == 0)
        keeping.line.meanwhile = lambda: None
        keeping.clock.now += TTL * 0.9
        await keeping.tried()
        assert keeping.lost == 0
        assert keeping.keeper.held.is_set()


async def test_a_host_that_slept_through_its_lease_has_lost_it_although_it_begins_another_at_once() -> None:
    async with Keeping() as keeping:
        keeping.line.kept = False
        await until(lambda: keeping.lost == 1)
        # It may take new work, but what it had is not its own any more.
        await asyncio.wait_for(keeping.keeper.held.wait(), PATIENCE)
        assert keeping.lost == 1


async def test_a_host_whose_event_loop_hangs_renews_no_more() -> None:
    keeping = Keeping()
    async with keeping:
        renewing = keeping.line.renewals
        await until(lambda: keeping.line.renewals > renewing)
        keeping.clock.now += TTL * 1.1
        renewing = keeping.line.tries
        # Nothing else runs on this loop meanwhile.
        for _ in range(20):
            keeping.line._woken.wait(0.002)
        assert keeping.line.tries <= renewing + 1
        assert keeping.keeper.silent_seconds > TTL
        # Once it goes on, so do the renewals.
        await until(lambda: keeping.line.tries > renewing + 2)
        assert keeping.keeper.silent_seconds == 0
