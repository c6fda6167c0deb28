"""Storing what calls used, beside the calls."""

import asyncio
from collections.abc import Sequence

import structlog

from services.common.backoff import Backoff
from services.common.db.database import Database
from services.models.domain.usage import UsageRecord
from services.models.repositories.usage import UsageRepository

logger = structlog.get_logger(__name__)

_BATCH = 500
# About 50 MB: what piles up while the database does not answer.
_MAX_WAITING = 100_000
_PAUSES = Backoff(base=0.2, longest=5.0)


class UsageRecorder:
    """Stores what calls used in the background: no call waits for it.

    What gathers while one batch is written is the next batch; a batch that cannot be written is retried.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[UsageRecord] = []
        self._changed = asyncio.Condition()
        self._recorded = 0
        self._stored = 0
        self._task: asyncio.Task[None] | None = None
        self._more = asyncio.Event()

    def start(self) -> None:
        """Begin to store."""
        self._task = asyncio.create_task(self._run())

    def record(self, record: UsageRecord) -> None:
        """Store a record soon."""
        if len(self._waiting) >= _MAX_WAITING:
            logger.error("usage_lost", group_id=record.group_id, model=record.model)
            return
        self._waiting.append(record)
        self._recorded += 1
        self._more.set()

    async def flush(self) -> None:
        """Wait until everything recorded so far is stored."""
        target = self._recorded
        async with self._changed:
            await self._changed.wait_for(lambda: self._stored >= target)

    async def close(self, timeout: float) -> None:
        """Store what is left, for at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.flush()
        except TimeoutError:
            logger.exception("usage_lost", records=len(self._waiting))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                batch = self._waiting[:_BATCH]
                try:
                    # After a failure it is unknown whether the batch was committed.
                    await self._store(batch, maybe_stored=failures > 0)
                except Exception:
                    failures += 1
                    logger.exception("usage_not_stored", records=len(self._waiting), failures=failures)
                    await asyncio.sleep(_PAUSES.pause(failures))
                    continue
                failures = 0
                del self._waiting[: len(batch)]
                async with self._changed:
                    self._stored += len(batch)
                    self._changed.notify_all()

    async def _store(self, records: Sequence[UsageRecord], *, maybe_stored: bool) -> None:
        async with self._database.write() as connection:
            await UsageRepository(connection).add(records, maybe_stored=maybe_stored)
