"""Storing what calls used, beside the calls."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import structlog
from prometheus_client import Counter
from sqlalchemy.exc import DBAPIError

from services.common.background import BackgroundTasks
from services.common.backoff import Backoff
from services.common.counts import from_the_start
from services.common.db.database import Database
from services.models.domain.usage import UsageRecord
from services.models.repositories.usage import UsageRepository

logger = structlog.get_logger(__name__)

_BATCH = 500
# About 50 MB: what piles up while the database does not answer.
_MAX_WAITING = 100_000
_PAUSES = Backoff(base=0.2, longest=5.0)
# Rows that are written together cost a fraction of rows written one by one.
_GATHER_SECONDS = 0.25
# Readers answer with what is stored rather than not at all.
_FLUSH_SECONDS = 2.0
_LOST = from_the_start(
    Counter("coxswain_models_usage_lost_total", "Records of usage that were not stored, by reason.", ("reason",)),
    ("backlog_full", "refused", "shutdown"),
)


class UsageRecorder:
    """Stores what calls used, beside them: no call waits for it.

    What gathers within a moment is written together. What cannot be written is tried again;
    a record that can never be written is set aside alone.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[UsageRecord] = []
        self._changed = asyncio.Condition()
        self._recorded = 0
        self._stored = 0
        self._background = BackgroundTasks()
        self._more = asyncio.Event()
        self._hurry = asyncio.Event()
        self._storing = asyncio.Lock()

    def start(self) -> None:
        """Begin to store."""
        self._background.start(self._run())

    def record(self, record: UsageRecord) -> None:
        """Store a record soon."""
        if len(self._waiting) >= _MAX_WAITING:
            logger.error("usage_lost", group_id=record.group_id, model=record.model)
            _LOST.labels("backlog_full").inc()
            return
        self._waiting.append(record)
        self._recorded += 1
        self._more.set()

    @property
    def waiting(self) -> Sequence[UsageRecord]:
        """The records that are not known to be stored."""
        return self._waiting

    @contextlib.asynccontextmanager
    async def standing_still(self, timeout: float = _FLUSH_SECONDS) -> AsyncIterator[None]:
        """Store nothing until the block ends, so that each record is either stored or among those that wait.

        When a batch takes longer than `timeout` seconds to be written, the block runs beside it: its records may then
        be both.
        """
        held = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                held = await self._storing.acquire()
        try:
            yield
        finally:
            if held:
                self._storing.release()

    async def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Wait, for at most `timeout` seconds, until everything recorded so far is stored; return whether it is."""
        target = self._recorded
        if self._stored >= target:
            return True
        self._hurry.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._stored >= target)
        return self._stored >= target

    async def close(self, timeout: float) -> None:
        """Store what is left, for at most `timeout` seconds."""
        if not await self.flush(timeout):
            logger.error("usage_lost", records=len(self._waiting))
            _LOST.labels("shutdown").inc(len(self._waiting))
        await self._background.stop()

    async def _run(self) -> None:
        failures = 0
        while True:
            await self._more.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_SECONDS):
                    await self._hurry.wait()
            self._more.clear()
            self._hurry.clear()
            # What comes while these are written gathers anew: a batch costs as much for one record as for a hundred.
            gathered = self._recorded
            while self._stored < gathered:
                batch = self._waiting[:_BATCH]
                try:
                    async with self._storing:
                        # After a failure nobody knows whether the batch was committed.
                        await self._store(batch, maybe_stored=failures > 0)
                        del self._waiting[: len(batch)]
                except Exception:
                    failures += 1
                    logger.exception("usage_not_stored", records=len(self._waiting), failures=failures)
                    await asyncio.sleep(_PAUSES.pause(failures))
                    continue
                failures = 0
                async with self._changed:
                    self._stored += len(batch)
                    self._changed.notify_all()

    async def _store(self, records: Sequence[UsageRecord], *, maybe_stored: bool) -> None:
        """Store records, but for those that no database takes: these are looked for by halves, and set aside."""
        try:
            async with self._database.write() as connection:
                await UsageRepository(connection).add(records, maybe_stored=maybe_stored)
        except Exception as error:
            if not _is_of_the_records(error):
                raise
            if len(records) == 1:
                logger.error(  # noqa: TRY400 - what is wrong is the record, not where it was written
                    "usage_record_refused",
                    group_id=records[0].group_id,
                    model=records[0].model,
                    error=type(error).__name__,
                )
                _LOST.labels("refused").inc()
                return
            middle = len(records) // 2
            await self._store(records[:middle], maybe_stored=True)
            await self._store(records[middle:], maybe_stored=True)


def _is_of_the_records(error: Exception) -> bool:
    """Whether an error comes from what was to be stored, and would come each time."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, OverflowError | ValueError | TypeError)
    state = getattr(error.orig, "sqlstate", None)
    if isinstance(state, str):
        # Data exceptions and broken constraints.
        return state[:2] in ("22", "23")
    return False
