"""Gives segments to another host when theirs has died, or when the queue and the executions disagree about them."""

from collections.abc import Collection, Iterable

import structlog

from services.common.clock import utc_now
from services.orchestrator.worker.host.run_store import RunStore
from services.orchestrator.worker.queue.dbos_queue import Segment, SegmentQueue, SegmentState

logger = structlog.get_logger(__name__)

_PAGE = 100
_FINISHED_KEPT_SECONDS = 24 * 3600.0


class SegmentRecovery:
    """What each host does regularly for all. Doing it twice, or on two hosts at once, changes nothing."""

    def __init__(self, queue: SegmentQueue, store: RunStore, executor_id: str, running: Collection[Segment]) -> None:
        """`running` holds what this host, `executor_id`, is running at any time."""
        self._queue = queue
        self._store = store
        self._executor_id = executor_id
        self._running = running
        self._suspects: set[Segment] = set()

    async def take_over(self) -> None:
        """Send what hosts without a lease hold back to the queue."""
        holders = await self._queue.holders()
        dead = await self._store.dead_hosts(holders) - {self._executor_id}
        if not dead:
            return
        logger.info("taking_over", executor_ids=sorted(dead))
        await self._queue.recover(dead)
        await self._store.forget_hosts(dead)

    async def repair(self) -> None:
        """Queue again what the queue does not have, or says that this host runs although it does not."""
        found: set[Segment] = set()
        after_id = ""
        while True:
            page = await self._store.at_work(after_id, _PAGE)
            found |= await self._stranded(Segment(execution_id, generation) for execution_id, generation in page)
            if len(page) < _PAGE:
                break
            after_id = page[-1][0]
        # Seen twice, so that what is just being queued, claimed or ended is left alone.
        for segment in found & self._suspects:
            if await self._store.hand_over_again(segment.execution_id, segment.generation):
                logger.warning("segment_handed_over_again", segment=segment.id)
        self._suspects = found - self._suspects

    async def forget_finished(self) -> None:
        """Remove segments from the queue that ended a day ago."""
        await self._queue.forget_finished(utc_now().timestamp() - _FINISHED_KEPT_SECONDS)

    async def _stranded(self, segments: Iterable[Segment]) -> set[Segment]:
        candidates = [segment for segment in segments if segment not in self._running]
        states = await self._queue.states(candidates)
        stranded = {
            segment for segment, state in states.items() if state in {SegmentState.UNKNOWN, SegmentState.FINISHED}
        }
        for segment in set(candidates) - stranded:
            if states[segment] is SegmentState.HELD and await self._queue.holds(segment):
                stranded.add(segment)
        return stranded
