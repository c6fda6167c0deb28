"""When a host looks again for what it may take: nothing is stored, and nothing waits for long pauses."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.common.errors import Unavailable
from services.orchestrator.domain.admission import Room
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import LocalHintBus
from services.orchestrator.worker.host import dispatcher as module
from services.orchestrator.worker.host.dispatcher import Dispatcher
from services.orchestrator.worker.settings import WorkerSettings

SLOTS = 4
SOON = 0.001
VERY_RARE = 10_000_000


class Rows:
    """What a host finds: something waits that it may not take."""

    def __init__(self) -> None:
        self.slots_of_others = 0
        self.faults = 0
        self.looks = asyncio.Semaphore(0)

    async def held(self, _executor_id: str) -> set[str]:
        return set()

    async def slots_beside(self, _executor_id: str) -> int:
        return self.slots_of_others

    async def can_run(self, *_: object) -> None:
        pass

    async def any_waiting(self, _room: Room) -> bool:
        self.looks.release()
        if self.faults:
            self.faults -= 1
            raise Unavailable("the database is away")
        return True

    async def take(self, _executor_id: str, _room: Room) -> list[Any]:
        return []


class World:
    """A host that runs nothing."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.hints = LocalHintBus()
        self.lease = SimpleNamespace(held=asyncio.Event())
        self.lease.held.set()

    @contextlib.asynccontextmanager
    async def running(self, idle_reads: int) -> AsyncIterator[Dispatcher]:
        settings = WorkerSettings(slots=SLOTS, safety_read_seconds=SOON, group_share=0.5)
        context = SimpleNamespace(store=self.rows, hints=self.hints, settings=settings)
        dispatcher = Dispatcher("host", cast("Any", context), cast("Any", self.lease), idle_reads=idle_reads)
        work = asyncio.create_task(dispatcher.run())
        try:
            async with asyncio.timeout(60):
                yield dispatcher
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work


async def test_a_groups_share_follows_the_hosts_while_something_always_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CAPACITY_SECONDS", 0.0)
    world = World()
    async with world.running(idle_reads=1) as dispatcher:
        await world.rows.looks.acquire()
        assert dispatcher.room.group_limit == SLOTS // 2
        world.rows.slots_of_others = SLOTS
        while dispatcher.room.group_limit != SLOTS:
            await world.rows.looks.acquire()


async def test_a_round_that_failed_is_soon_repeated_by_a_host_that_runs_nothing() -> None:
    world = World()
    world.rows.faults = 1
    async with world.running(VERY_RARE):
        await world.rows.looks.acquire()
        await world.rows.looks.acquire()


async def test_a_host_looks_as_soon_as_it_has_its_lease_again() -> None:
    world = World()
    async with world.running(VERY_RARE):
        await world.rows.looks.acquire()
        world.lease.held.clear()
        world.hints.publish(Hint(HintKind.EXECUTION_READY, "any"))
        for _ in range(3):
            await asyncio.sleep(0)
        world.lease.held.set()
        await world.rows.looks.acquire()
