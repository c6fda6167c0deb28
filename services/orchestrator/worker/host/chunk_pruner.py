"""Removes the chunks of models' answers once watchers have had time to read them; the full text stays."""

import asyncio
import functools
from collections import deque

import structlog

from services.common.periodic import once
from services.orchestrator.worker.host.run_store import RunStore


class ChunkPruner:
    """Keeps what to remove in memory: chunks that a lost host would have removed stay, which does no harm."""

    def __init__(self, store: RunStore, retention: float) -> None:
        """`retention` is in seconds."""
        self._store = store
        self._retention = retention
        self._due: deque[tuple[float, str, str, int]] = deque()
        self._added = asyncio.Event()

    def add(self, execution_id: str, call_id: str, after_sequence: int) -> None:
        """Remove the chunks of a call's answer, all of which come after a sequence, once `retention` has passed."""
        when = asyncio.get_running_loop().time() + self._retention
        self._due.append((when, execution_id, call_id, after_sequence))
        self._added.set()

    async def run(self) -> None:
        """Remove until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._added.wait()
            self._added.clear()
            while self._due:
                when, execution_id, call_id, after_sequence = self._due[0]
                await asyncio.sleep(max(0.0, when - loop.time()))
                self._due.popleft()
                prune = functools.partial(self._store.prune_chunks, execution_id, call_id, after_sequence)
                with structlog.contextvars.bound_contextvars(execution_id=execution_id):
                    await once(prune, "prune_chunks")
