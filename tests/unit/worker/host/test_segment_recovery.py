"""What hosts that have died had goes on, and never what this host has."""

from collections.abc import Collection
from typing import Any, cast

from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.lease import LeaseView
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

    async def waiting_or_due(self) -> tuple[str | None, bool]:
        return self.waiting, bool(self.due)

    async def wake_due(self, limit: int) -> list[str]:
        return self.due[:limit]

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
    assert paces == [(1, 3), (1, 6), (2, 12), (4, 24), (8, 48), (16, 48), (16, 48), (16, 48)]
    world.expired = {f"elder {number}" for number in range(7)}
    await world.recovery.take_over()
    assert (world.recovery.seconds_to_look, world.recovery.seconds_to_read) == (1, 3)


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
    assert world.hints[1:] == [Hint(HintKind.EXECUTION_READY, "due")]
