"""Segments whose host has died, and those that the queue and the executions disagree about, go on."""

from collections.abc import Collection, Iterable
from typing import Any, cast

from services.orchestrator.worker.host.segment_recovery import SegmentRecovery
from services.orchestrator.worker.queue.dbos_queue import Segment, SegmentState

LOST = Segment("lost", 1)
STRANDED = Segment("stranded", 1)
ELSEWHERE = Segment("elsewhere", 1)
RUNNING = Segment("running", 1)


class Surroundings:
    """The queue, the rows and the leases as this host, "me", finds them."""

    def __init__(self) -> None:
        self.states_of = {
            STRANDED: SegmentState.HELD,
            ELSEWHERE: SegmentState.HELD,
            RUNNING: SegmentState.HELD,
        }
        self.held = {STRANDED, RUNNING}
        self.at_work_now = [LOST, STRANDED, ELSEWHERE, RUNNING]
        self.expired: set[str] = set()
        self.requeued: list[Segment] = []
        self.recovered: list[set[str]] = []
        self.forgotten: list[set[str]] = []
        self.recovery = SegmentRecovery(cast("Any", self), cast("Any", self), executor_id="me", running={RUNNING})

    # the queue

    async def states(self, segments: Iterable[Segment]) -> dict[Segment, SegmentState]:
        return {segment: self.states_of.get(segment, SegmentState.UNKNOWN) for segment in segments}

    async def holds(self, segment: Segment) -> bool:
        return segment in self.held

    async def holders(self) -> set[str]:
        return {"me", "dead", "alive"}

    async def recover(self, executor_ids: set[str]) -> None:
        self.recovered.append(executor_ids)

    # the rows

    async def at_work(self, after_id: str, limit: int) -> list[tuple[str, int]]:
        later = sorted(
            (each.execution_id, each.generation) for each in self.at_work_now if each.execution_id > after_id
        )
        return later[:limit]

    async def hand_over_again(self, execution_id: str, generation: int) -> bool:
        self.requeued.append(Segment(execution_id, generation))
        return True

    # the leases

    async def dead_hosts(self, holders: Collection[str]) -> set[str]:
        return self.expired & {*holders, "me"}

    async def forget_hosts(self, executor_ids: set[str]) -> None:
        self.forgotten.append(executor_ids)


async def test_segments_that_nobody_runs_are_queued_again_once_they_were_seen_twice() -> None:
    world = Surroundings()
    await world.recovery.repair()
    assert world.requeued == []
    await world.recovery.repair()
    assert set(world.requeued) == {LOST, STRANDED}


async def test_a_segment_that_was_only_just_between_two_states_is_left_alone() -> None:
    world = Surroundings()
    await world.recovery.repair()
    world.states_of[LOST] = SegmentState.WAITING
    world.held.discard(STRANDED)
    await world.recovery.repair()
    await world.recovery.repair()
    assert world.requeued == []


async def test_every_page_of_executions_is_looked_at() -> None:
    world = Surroundings()
    world.at_work_now = [Segment(f"{number:04}", 1) for number in range(250)]
    await world.recovery.repair()
    await world.recovery.repair()
    assert set(world.requeued) == set(world.at_work_now)


async def test_what_dead_hosts_held_goes_back_to_the_queue_and_never_what_this_host_holds() -> None:
    world = Surroundings()
    await world.recovery.take_over()
    assert world.recovered == []
    world.expired = {"dead", "me"}
    await world.recovery.take_over()
    assert world.recovered == world.forgotten == [{"dead"}]
