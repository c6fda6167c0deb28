"""Gives executions to other hosts when theirs has died, and wakes those whose wait for a model is over."""

import structlog

from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.worker.host.dead_hosts import DeadHosts
from services.orchestrator.worker.host.metrics import TAKEOVERS
from services.orchestrator.worker.host.run_store import RunStore

logger = structlog.get_logger(__name__)

_PAGE = 100
_LOOKS_BETWEEN_HOLDERS = 10
"""Executions are asked who has them less often than leases are read: hosts without a lease are long dead."""


class SegmentRecovery:
    """What each host does regularly for all. Doing it twice, or on two hosts at once, changes nothing."""

    def __init__(self, store: RunStore, leases: LeaseStore, executor_id: str, hints: HintBus) -> None:
        self._store = store
        self._leases = leases
        self._dead_hosts = DeadHosts(leases, executor_id)
        self._looks = 0
        self._hints = hints

    async def take_over(self) -> None:
        """Let what dead hosts have wait for any host again."""
        holders = await self._store.holders() if self._looks % _LOOKS_BETWEEN_HOLDERS == 0 else ()
        self._looks += 1
        found = await self._dead_hosts.find(holders)
        if not found.dead:
            return
        given_back = await self._store.take_over(found.dead)
        TAKEOVERS.inc(len(given_back))
        logger.info("taking_over", executor_ids=sorted(found.dead), executions=len(given_back))
        await self._leases.forget(found.leases)
        for execution_id in given_back:
            self._hints.publish(Hint(HintKind.EXECUTION_READY, execution_id))

    async def wake_due(self) -> None:
        """Continue executions whose models are to be called again."""
        for execution_id in await self._store.wake_due(_PAGE):
            self._hints.publish(Hint(HintKind.EXECUTION_READY, execution_id))
