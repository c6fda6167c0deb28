"""What a host does with its slots while others think it dead, and while it stops: rows are real, runs are played."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.domain.admission import Room
from services.orchestrator.domain.execution import ExecutionState, Success, TaskOutput
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import LocalHintBus, Subscription
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.worker.host import dispatcher as module
from services.orchestrator.worker.host.dispatcher import Dispatcher
from services.orchestrator.worker.host.run_store import Claim, RunStore
from services.orchestrator.worker.host.stop_signal import Cancelled, Lost, Stop
from services.orchestrator.worker.settings import WorkerSettings
from tests.integration.worker.rows import execution_row, queue
from tests.support.waiting import until

S = ExecutionState
HOST = "host"
SLOTS = 4


class Run:
    """A run that goes on until it is stopped, and for as long after that as the test wants."""

    def __init__(self, claim: Claim, _: Any, on_rest: Callable[[], None]) -> None:
        self.claim = claim
        self.on_rest = on_rest
        self.reason: Stop | None = None
        self.stopped = asyncio.Event()
        self.may_end = asyncio.Event()
        runs.append(self)

    def stop(self, reason: Stop) -> None:
        self.reason = self.reason or reason
        self.stopped.set()

    async def run(self) -> None:
        await self.stopped.wait()
        await self.may_end.wait()
        if isinstance(self.reason, Lost):
            raise self.reason


runs: list[Run] = []


class World:
    """One host that takes what waits."""

    def __init__(self, database: Database, store: RunStore) -> None:
        self.database = database
        self.store = store
        self.hints = LocalHintBus()
        self.lease = SimpleNamespace(held=asyncio.Event())
        self.lease.held.set()
        self.settings = WorkerSettings(slots=SLOTS, safety_read_seconds=0.05)
        context = SimpleNamespace(store=store, hints=self.hints, settings=self.settings)
        self.dispatcher = Dispatcher(HOST, cast("Any", context), cast("Any", self.lease))

    def ready(self, execution_id: str) -> None:
        self.hints.publish(Hint(HintKind.EXECUTION_READY, execution_id))

    async def begun(self, count: int) -> Run:
        """Wait until that many runs have begun, and return the last one."""
        await until(lambda: len(runs) == count)
        return runs[-1]


@pytest.fixture
async def world(database: Database, store: RunStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    runs.clear()
    monkeypatch.setattr(module, "ExecutionRun", Run)
    made = World(database, store)
    work = asyncio.create_task(made.dispatcher.run())
    yield made
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    for run in runs:
        run.stop(Cancelled())
        run.may_end.set()
    await made.dispatcher._background.stop()


async def succeed(connection: AsyncConnection, execution_id: str) -> None:
    await EventRepository(connection).append(execution_id, [], succeeded=Success(TaskOutput("done"), utc_now()))


async def test_a_host_that_takes_anew_what_it_still_runs_keeps_the_newer_claim(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REPAIR_SECONDS", 0.0)
    execution_id = await queue(world.database)
    earlier = await world.begun(1)
    # Another host takes this one for dead, which is only slow.
    assert await world.store.take_over([HOST]) == [execution_id]
    world.ready(execution_id)
    newer = await world.begun(2)
    await until(earlier.stopped.is_set)
    assert isinstance(earlier.reason, Lost)
    assert not newer.stopped.is_set()
    earlier.may_end.set()
    await until(lambda: world.dispatcher.running == 1)
    # It has given back nothing that it runs, and can still stop it.
    async with world.database.write() as connection:
        await ExecutionRepository(connection).request_cancel(execution_id, newer.claim.execution.created_at)
    await until(newer.stopped.is_set)
    assert isinstance(newer.reason, Cancelled)
    row = await execution_row(world.database, execution_id)
    assert (row.epoch, row.ready, row.executor_id, len(runs)) == (2, False, HOST, 2)


async def test_who_has_ended_frees_its_slot_while_it_is_tidied_up_and_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REPAIR_SECONDS", 0.0)
    for _ in range(SLOTS + 1):
        await queue(world.database)
    await world.begun(SLOTS)
    first, *others = list(runs)
    async with world.database.write() as connection:
        await succeed(connection, first.claim.execution.id)
    first.on_rest()
    last = await world.begun(SLOTS + 1)
    assert world.dispatcher.running == SLOTS
    # They end for good: what is given back, this host would take again.
    for run in (*others, last):
        async with world.database.write() as connection:
            await succeed(connection, run.claim.execution.id)
        run.stop(Cancelled())
        run.may_end.set()
    await until(lambda: world.dispatcher.running == 0)
    draining = asyncio.create_task(world.dispatcher.drain(60))
    _, pending = await asyncio.wait({draining}, timeout=0.2)
    assert pending, "the first is still tidied up"
    first.stop(Cancelled())
    first.may_end.set()
    await draining
    ended = await execution_row(world.database, first.claim.execution.id)
    assert (ended.state, ended.ready, ended.epoch, len(runs)) == (S.SUCCEEDED, False, 1, SLOTS + 1)


async def test_a_cancellation_is_followed_on_its_hint_and_not_with_the_next_regular_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = 0.0
    take = Subscription.take

    async def noted(self: Subscription, seconds: float) -> list[Hint]:
        nonlocal pause
        pause = 0.0 if self._arrived.is_set() else seconds
        try:
            return await take(self, seconds)
        finally:
            pause = 0.0

    monkeypatch.setattr(Subscription, "take", noted)
    world.settings.safety_read_seconds = 3600.0
    execution_id = await queue(world.database)
    world.ready(execution_id)
    run = await world.begun(1)
    await until(lambda: pause == 3600.0, "it has read what there is")
    async with world.database.write() as connection:
        await ExecutionRepository(connection).request_cancel(execution_id, utc_now())
    world.hints.publish(Hint(HintKind.CANCEL_REQUESTED, execution_id))
    await until(run.stopped.is_set)
    assert isinstance(run.reason, Cancelled)


async def test_only_what_has_a_slot_is_asked_for_its_cancellation(world: World) -> None:
    ids = [await queue(world.database) for _ in range(2)]
    await world.begun(2)
    rests, runs_on = sorted(runs, key=lambda run: ids.index(run.claim.execution.id))
    async with world.database.write() as connection:
        await succeed(connection, ids[0])
        for execution_id in ids:
            await ExecutionRepository(connection).request_cancel(execution_id, utc_now())
        # Before the host can read either.
        rests.on_rest()
    await until(runs_on.stopped.is_set)
    assert isinstance(runs_on.reason, Cancelled)
    assert not rests.stopped.is_set()


async def test_a_host_that_stops_leaves_what_it_runs_and_is_not_counted_as_lost(world: World) -> None:
    execution_id = await queue(world.database)
    (await world.begun(1)).may_end.set()
    await world.dispatcher.drain(0)
    await world.dispatcher.hand_over()
    row = await execution_row(world.database, execution_id)
    assert (row.state, row.ready, row.lost_hosts) == (S.RUNNING, True, 0)


async def test_what_a_host_is_taking_when_it_stops_is_not_left_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking, may_take = asyncio.Event(), asyncio.Event()
    take = world.store.take

    async def take_later(executor_id: str, room: Room) -> list[Claim]:
        taking.set()
        await may_take.wait()
        return await take(executor_id, room)

    monkeypatch.setattr(world.store, "take", take_later)
    execution_id = await queue(world.database)
    await until(taking.is_set)
    await world.dispatcher.drain(0)
    leaving = asyncio.create_task(world.dispatcher.hand_over())
    # Time to leave before the host has what it is taking, if it did not wait for that.
    await asyncio.sleep(0.1)
    may_take.set()
    (await world.begun(1)).may_end.set()
    await leaving
    row = await execution_row(world.database, execution_id)
    assert (row.ready, row.lost_hosts) == (True, 0)
