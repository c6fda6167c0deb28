"""Gives executions to other hosts when theirs has died, and wakes those whose wait for a model is over."""

import asyncio
import contextlib

import structlog

from services.common.periodic import once
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.worker.host.dead_hosts import DeadHosts
from services.orchestrator.worker.host.metrics import TAKEOVERS
from services.orchestrator.worker.host.run_store import RunStore

logger = structlog.get_logger(__name__)

_PAGE = 100
_LOOKS_BETWEEN_HOLDERS = 20
"""Executions are asked who has them less often than leases are read: hosts without a lease are long dead."""
_MOST_DOUBLINGS = 4
_LONGEST_LOOK_SECONDS = 10.0
"""Between two looks of any host, unless the oldest one's are rarer: all older ones may die at once."""
_SECOND_LOOK_SECONDS = 0.4
"""Until the look that proves a death, if looks are not more frequent anyway."""


class SegmentRecovery:
    """What each host does regularly for all, the two oldest ones more often than the others.

    Were they all equal, as many hosts would do it as often again. Which ones are old, each sees by itself, and one that
    dies is followed by the next: nobody is elected. Doing it twice, or on two hosts at once, changes nothing.
    """

    def __init__(
        self,
        store: RunStore,
        leases: LeaseStore,
        executor_id: str,
        hints: HintBus,
        *,
        look_seconds: float,
        read_seconds: float,
    ) -> None:
        """The seconds are those between two calls of `take_over`, and of `wake`, by the oldest host."""
        self._store = store
        self._leases = leases
        self._dead_hosts = DeadHosts(leases, executor_id)
        self._looks = 0
        self._hints = hints
        self._look_seconds = look_seconds
        self._read_seconds = read_seconds
        self._elders = 0
        self._suspects = False
        self._reads_sooner = asyncio.Event()
        self._told_of: str | None = None

    @property
    def seconds_to_look(self) -> float:
        """How long to wait until `take_over` is called again. The second oldest looks for the oldest one."""
        if self._suspects:
            return min(self._look_seconds, _SECOND_LOOK_SECONDS)
        seconds = self._look_seconds * (1 << min(max(0, self._elders - 1), _MOST_DOUBLINGS))
        return min(seconds, max(_LONGEST_LOOK_SECONDS, self._look_seconds))

    @property
    def seconds_to_read(self) -> float:
        """How long to wait until `wake` is called again, unless older hosts turn out to be gone meanwhile."""
        return self._read_seconds * (1 << min(self._elders, _MOST_DOUBLINGS))

    async def keep_waking(self) -> None:
        """Call `wake` until cancelled: regularly, and at once when that has to be done more often than it was."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.seconds_to_read):
                    await self._reads_sooner.wait()
            self._reads_sooner.clear()
            await once(self.wake, "wake_executions")

    async def take_over(self) -> None:
        """Let what dead hosts have wait for any host again."""
        holders = await self._store.holders() if self._looks % _LOOKS_BETWEEN_HOLDERS == 0 else ()
        self._looks += 1
        found = await self._dead_hosts.find(holders)
        seconds_to_read = self.seconds_to_read
        self._elders, self._suspects = found.elders, found.suspects
        if self.seconds_to_read < seconds_to_read:
            self._reads_sooner.set()
        if not found.dead:
            return
        given_back = await self._store.take_over(found.dead)
        TAKEOVERS.inc(len(given_back))
        logger.info("taking_over", executor_ids=sorted(found.dead), execution_ids=given_back)
        await self._leases.forget(found.leases)
        self._announce(given_back)

    async def wake(self) -> None:
        """Continue executions whose models are to be called again, and tell of one that waits: hints can be lost."""
        any_waiting, any_due = await self._store.waiting_or_due()
        while any_due:
            woken = await self._store.wake_due(_PAGE)
            self._announce(woken)
            any_due = len(woken) == _PAGE
        # The first in line: when nobody may take that one, nobody may take any.
        waiting = await self._store.first_in_line() if any_waiting else None
        if waiting is not None and waiting != self._told_of:
            # Once only: what a limit keeps waiting would have all hosts look for it again and again.
            self._announce([waiting])
        self._told_of = waiting

    def _announce(self, execution_ids: list[str]) -> None:
        for execution_id in execution_ids:
            self._hints.publish(Hint(HintKind.EXECUTION_READY, execution_id))
