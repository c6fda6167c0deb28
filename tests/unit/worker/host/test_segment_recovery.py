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
        self.recovery = SegmentRecovery(cast("Any", self), cast("Any", self), "me", cast("Any", self))

    async def holders(self) -> set[str]:
        return {"me", "dead", "alive"}

    async def take_over(self, executor_ids: set[str]) -> list[str]:
        self.given_back.append(set(executor_ids))
        return ["lost"]

    async def all(self) -> list[LeaseView]:
        return [
            LeaseView(host, expired=host in self.expired, lock_key=None, locked=False)
            for host in ("me", "dead", "alive")
        ]

    async def forget(self, leases: Collection[LeaseView]) -> None:
        self.forgotten.append({lease.executor_id for lease in leases})

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
