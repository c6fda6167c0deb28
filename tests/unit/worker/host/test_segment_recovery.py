"""What hosts that have died had goes on, and never what this host has."""

import asyncio
import contextlib
from collections.abc import Collection
from typing import Any, cast

import pytest

from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.lease import LeaseView
from services.orchestrator.worker.host import segment_recovery as module
from services.orchestrator.worker.host.segment_recovery import SegmentRecovery


class Surroundings:
    """The rows, the leases and the hints as this host, "me", finds them."""

    def __init__(self) -> None:
        self.expired: set[str] = set()
        self.given_back: list[set[str]] = []
        self.forgotten: list[set[str]] = []
        self.hints: list[Hint] = []
        self.hosts = ["me", "dead", "alive"]
        self.waiting: str | None = None
        self.due: list[str] = []
        self.read = asyncio.Event()
        self.recovery = SegmentRecovery(
            cast("Any", self), cast("Any", self), "me", cast("Any", self), look_seconds=1.0, read_seconds=3.0
        )

    async def holders(self) -> set[str]:
        return {"me", "dead", "alive"}

    async def take_over(self, executor_ids: set[str]) -> list[str]:
        self.given_back.append(set(executor_ids))
        return ["lost"]

    async def all(self) -> list[LeaseView]:
        return [
            LeaseView(host, expired=host in self.expired, lock_key=None, locked=False, started_at=float(started))
            for started, host in enumerate(self.hosts)
        ]

    async def forget(self, leases: Collection[LeaseView]) -> None:
        self.forgotten.append({lease.executor_id for lease in leases})

    async def waiting_or_due(self) -> tuple[bool, bool]:
        self.read.set()
        return self.waiting is not None, bool(self.due)

    async def first_in_line(self) -> str | None:
        return self.waiting

    async def wake_due(self, limit: int) -> list[str]:
        woken, self.due = self.due[:limit], self.due[limit:]
        return woken

    def publish(self, hint: Hint) -> None:
        self.hints.append(hint)


async def test_what_dead_hosts_had_waits_for_any_host_and_never_what_this_host_has() -> None:
    world = Surroundings()
    await world.recovery.take_over()
    assert world.given_back == []
    world.expired = {"dead", "me"}
    await world.recovery.take_over()
    assert world.given_back == world.forgotten == [{"dead"}]
    assert world.hints == [Hint(HintKind.EXECUTION_READY, "lost")]


async def test_the_two_oldest_hosts_look_often_and_the_others_the_less_the_younger_they_are() -> None:
    world = Surroundings()
    paces = []
    for elders in range(8):
        world.hosts = [*(f"elder {number}" for number in range(elders)), "me", "younger"]
        await world.recovery.take_over()
        paces.append((world.recovery.seconds_to_look, world.recovery.seconds_to_read))
    assert paces == [(1, 3), (1, 6), (2, 12), (4, 24), (8, 48), (10, 48), (10, 48), (10, 48)]
    world.expired = {f"elder {number}" for number in range(7)}
    await world.recovery.take_over()
    assert (world.recovery.seconds_to_look, world.recovery.seconds_to_read) == (1, 3)


async def test_a_host_reads_at_once_when_older_ones_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Surroundings()
    monkeypatch.setattr(world.recovery, "_read_seconds", 3600.0)
    world.hosts = ["first", "second", "me"]
    await world.recovery.take_over()
    work = asyncio.create_task(world.recovery.keep_waking())
    world.expired = {"first"}
    await world.recovery.take_over()
    async with asyncio.timeout(60):
        await world.read.wait()
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def test_an_execution_that_waits_unnoticed_is_told_of_once_and_others_are_woken() -> None:
    world = Surroundings()
    await world.recovery.wake()
    assert world.hints == []
    world.waiting = "unnoticed"
    await world.recovery.wake()
    await world.recovery.wake()
    assert world.hints == [Hint(HintKind.EXECUTION_READY, "unnoticed")]
    world.waiting, world.due = "another", ["due"]
    await world.recovery.wake()
    assert world.hints[1:] == [Hint(HintKind.EXECUTION_READY, "due"), Hint(HintKind.EXECUTION_READY, "another")]


async def test_all_that_are_due_are_woken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    world = Surroundings()
    world.due = ["a", "b", "c"]
    await world.recovery.wake()
    assert [hint.execution_id for hint in world.hints] == ["a", "b", "c"]
