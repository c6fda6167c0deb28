"""Gives executions to other hosts when theirs has died, and wakes those whose wait for a model is over."""

import structlog

from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.worker.host.run_store import RunStore

logger = structlog.get_logger(__name__)

_PAGE = 100


class SegmentRecovery:
    """What each host does regularly for all. Doing it twice, or on two hosts at once, changes nothing."""

    def __init__(self, store: RunStore, executor_id: str, hints: HintBus) -> None:
        self._store = store
        self._executor_id = executor_id
        self._hints = hints

    async def take_over(self) -> None:
        """Let what hosts without a lease have wait for any host again."""
        dead = await self._store.dead_hosts(await self._store.holders()) - {self._executor_id}
        if not dead:
            return
        given_back = await self._store.take_over(dead)
        logger.info("taking_over", executor_ids=sorted(dead), executions=len(given_back))
        await self._store.forget_hosts(dead)
        for execution_id in given_back:
            self._hints.publish(Hint(HintKind.EXECUTION_READY, execution_id))

    async def wake_due(self) -> None:
        """Continue executions whose models are to be called again."""
        for execution_id in await self._store.wake_due(_PAGE):
            self._hints.publish(Hint(HintKind.EXECUTION_READY, execution_id))
