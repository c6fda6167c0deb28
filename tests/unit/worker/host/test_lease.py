"""A host knows when it may no longer count itself among the living."""

import asyncio
from typing import Any, Self, cast

from services.common.errors import Unavailable
from services.orchestrator.worker.host.lease import LeaseKeeper
from services.orchestrator.worker.host.run_store import RunStore
from tests.unit.worker.waiting import PATIENCE, until

TTL = 10.0


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Rows:
    """A database whose answer can be chosen."""

    def __init__(self) -> None:
        self.renewals = 0
        self.answers = True
        self.meanwhile: Any = None

    async def renew_lease(self, *_: Any) -> None:
        if self.meanwhile is not None:
            self.meanwhile()
        if not self.answers:
            raise Unavailable("gone")
        self.renewals += 1


class Keeping:
    """A keeper at work, whose renewals can be waited for."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.rows = Rows()
        self.lost = 0
        self.keeper = LeaseKeeper(
            cast("RunStore", self.rows), "host", ttl=TTL, interval=0.001, on_lost=self._lose, clock=self.clock
        )
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

    async def renewed(self) -> None:
        count = self.rows.renewals
        await until(lambda: self.rows.renewals > count)


async def test_a_lease_that_is_renewed_in_time_is_held() -> None:
    async with Keeping() as keeping:
        for _ in range(5):
            keeping.clock.now += TTL / 2
            await keeping.renewed()
        assert keeping.keeper.held.is_set()
        assert keeping.lost == 0


async def test_an_error_nobody_foresaw_does_not_end_the_renewals() -> None:
    async with Keeping() as keeping:
        asked = 0

        def stumble() -> None:
            nonlocal asked
            asked += 1
            raise LookupError("not of a database")

        keeping.rows.meanwhile = stumble
        await until(lambda: asked >= 2)
        keeping.rows.meanwhile = None
        await keeping.renewed()
        assert keeping.keeper.held.is_set()
        assert keeping.task is not None
        assert not keeping.task.done()


async def test_a_lease_is_lost_before_others_may_think_so() -> None:
    async with Keeping() as keeping:
        keeping.rows.answers = False
        keeping.clock.now += TTL * 0.75
        await asyncio.sleep(0.02)
        assert keeping.keeper.held.is_set()
        keeping.clock.now += TTL * 0.1
        await until(lambda: not keeping.keeper.held.is_set())
        assert keeping.lost == 1


async def test_a_host_that_slept_through_its_lease_has_lost_it_although_it_renews_it_at_once() -> None:
    async with Keeping() as keeping:
        keeping.clock.now += TTL * 3
        await until(lambda: keeping.lost == 1)
        # It may take new work, but what it had is not its own any more.
        await asyncio.wait_for(keeping.keeper.held.wait(), PATIENCE)
        assert keeping.lost == 1


async def test_a_renewal_that_took_too_long_is_none() -> None:
    async with Keeping() as keeping:

        def slow() -> None:
            keeping.clock.now += TTL

        keeping.rows.meanwhile = slow
        await until(lambda: keeping.lost == 1)
        assert not keeping.keeper.held.is_set()
        keeping.rows.meanwhile = None
        await asyncio.wait_for(keeping.keeper.held.wait(), PATIENCE)
