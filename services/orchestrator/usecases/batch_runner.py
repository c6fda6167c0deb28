"""Makes the executions of batches."""

import asyncio
import contextlib
from dataclasses import replace

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import (
    Aborted,
    CoxswainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from services.common.identity.group_limits import GroupLimits
from services.common.periodic import once
from services.common.quotas import QuotaExceeded
from services.orchestrator.domain.batch import Batch, BatchPlace
from services.orchestrator.domain.execution import Execution, ExecutionError
from services.orchestrator.repositories.batches import BatchRepository
from services.orchestrator.usecases.execution_starter import ExecutionStarter
from services.orchestrator.usecases.executions import Executions
from services.orchestrator.usecases.hinted_loop import Pending
from services.orchestrator.usecases.open_executions import refuse_early
from services.orchestrator.usecases.ports import Grants

logger = structlog.get_logger(__name__)

_READ_AT_ONCE = 100
_AT_ONCE = 4
# No later execution of the batch could be made either. All other failures are of the installation, and pass.
_LASTING = (NotFound, InvalidArgument, FailedPrecondition)
_REVOKED = "DELEGATION_REVOKED"
_LIMITS_KNOWN_SECONDS = 30.0


class BatchRunner:
    """Makes executions of the inputs of batches, in order, while fewer than a batch may have are not ended.

    Replicas may do it at once. An execution and the count of those made are stored in one transaction, under a lock of
    the batch: each is made once, and never one too many.
    """

    def __init__(
        self,
        database: Database,
        starter: ExecutionStarter,
        executions: Executions,
        grants: Grants,
    ) -> None:
        self._database = database
        self._starter = starter
        self._executions = executions
        self._grants = grants
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._full: dict[str, tuple[GroupLimits, float]] = {}
        """Groups that had as many open executions as they may: their limits then, and until when to go by these."""

    async def once(self) -> Pending:
        """Do what is due now, for all batches; return those groups of which one has not ended."""
        found: list[Batch] = []
        after = ""
        while True:
            async with self._database.read() as connection:
                page = await BatchRepository(connection).open(after, _READ_AT_ONCE)
            found += page
            if len(page) < _READ_AT_ONCE:
                break
            after = page[-1].id
        await asyncio.gather(*map(self._advance_or_log, found))
        groups = {batch.group_id for batch in found}
        self._full = {group_id: limits for group_id, limits in self._full.items() if group_id in groups}
        return Pending(groups)

    async def _advance_or_log(self, batch: Batch) -> None:
        """Advance one batch; its failures do not affect the others."""
        async with self._slots:
            with structlog.contextvars.bound_contextvars(batch_id=batch.id):
                await once(lambda: self._advance(batch), "batch")

    async def _advance(self, batch: Batch) -> None:
        async with self._database.read() as connection:
            active = await BatchRepository(connection).active(batch.id)
        if not batch.exhausted and len(active) < batch.max_parallel:
            await self._fill(batch, batch.max_parallel - len(active))
        elif batch.exhausted and not active:
            await self._end(batch)
        elif batch.cancel_requested_at is not None:
            for execution_id in active:
                with contextlib.suppress(NotFound):
                    await self._executions.cancel(batch, execution_id)

    async def _fill(self, batch: Batch, room: int) -> None:
        """Make up to so many executions, until another replica is faster or the group has as many as it may."""
        if await self._still_full(batch.group_id):
            return
        try:
            async with self._grants.acting(batch.grant_id, batch.id) as limits:
                await self._make_some(batch, room, limits)
        except Aborted as error:
            logger.debug("batch_execution_not_made", batch_id=batch.id, reason=error.reason)
        except ResourceExhausted as error:
            logger.warning("batch_postponed", batch_id=batch.id, reason=error.reason, error=error.message)
        except CoxswainError as error:
            if not isinstance(error, _LASTING) and error.reason != _REVOKED:
                raise
            await self._stop(batch, error)

    async def _make_some(self, batch: Batch, room: int, limits: GroupLimits) -> None:
        try:
            for index in range(batch.started, min(batch.started + room, batch.total)):
                await self._make(batch, index, limits)
        except QuotaExceeded as error:
            # Its next execution is made when others of the group have ended.
            logger.debug("batch_execution_not_made", batch_id=batch.id, reason=error.reason)
            self._full[batch.group_id] = limits, asyncio.get_running_loop().time() + _LIMITS_KNOWN_SECONDS

    async def _still_full(self, group_id: str) -> bool:
        """Return whether a group is known to have as many open executions as it may. Auth is not asked."""
        limits, until = self._full.get(group_id, (None, 0.0))
        if limits is None or until < asyncio.get_running_loop().time():
            return False
        try:
            await refuse_early(self._database, group_id, limits)
        except QuotaExceeded:
            return True
        return False

    async def _make(self, batch: Batch, index: int, limits: GroupLimits) -> None:
        """Make the execution at an index. Raises Aborted: another replica was faster, or it must not be made now."""
        async with self._database.read() as connection:
            inputs = await BatchRepository(connection).inputs(batch.id, index)
        if inputs is None:
            raise Aborted("another process was faster", reason="REVISION_MISMATCH")

        async def advance(connection: AsyncConnection, _: Execution) -> None:
            repository = BatchRepository(connection)
            locked = await repository.lock(batch.id)
            if locked is None or locked.exhausted or locked.started != index:
                raise Aborted("another process was faster, or the batch has ended", reason="REVISION_MISMATCH")
            if len(await repository.active(batch.id)) > batch.max_parallel:
                raise Aborted("the batch has as many executions as it may", reason="REVISION_MISMATCH")
            await repository.advance(locked)

        start = replace(batch.start, inputs={**batch.start.inputs, **inputs})
        await self._starter.start(batch, start, limits=limits, batch=BatchPlace(batch.id, index), also_store=advance)

    async def _stop(self, batch: Batch, error: CoxswainError) -> None:
        logger.warning("batch_stopped", batch_id=batch.id, reason=error.reason)
        async with self._database.write() as connection:
            await BatchRepository(connection).stop(batch.id, ExecutionError(error.reason, error.message))

    async def _end(self, batch: Batch) -> None:
        async with self._database.write() as connection:
            await BatchRepository(connection).end(batch.id, utc_now())
        await self._grants.revoke(batch.id)
        async with self._database.write() as connection:
            await BatchRepository(connection).grant_revoked(batch.id)
        logger.info("batch_ended", batch_id=batch.id)
