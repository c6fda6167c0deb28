"""What has to happen to executions although nobody asks for it."""

import asyncio
from datetime import timedelta

import structlog
from prometheus_client import Gauge

from services.common.clock import utc_now
from services.common.errors import CoxswainError
from services.orchestrator.domain.execution import TERMINAL_STATES, Execution, ExecutionError, ExecutionState
from services.orchestrator.repositories.protocols import Store
from services.orchestrator.usecases.endings import Endings

logger = structlog.get_logger(__name__)

UNFINISHED = Gauge(
    "coxswain_executions",
    "Executions that have not ended, of the whole installation, by state; QUEUED ones wait for a worker host.",
    ("state",),
)
_STATES = sorted(set(ExecutionState) - TERMINAL_STATES)
_BATCH = 100
# Whoever ends an execution revokes its grant at once; only what is left after this long was forgotten.
_GRANT_PATIENCE = timedelta(seconds=30)


class Housekeeping:
    """Ends waiting executions whose end is due, revokes grants left open, forgets old requests, counts unfinished work.

    Replicas may do it at once.
    """

    def __init__(self, store: Store, endings: Endings, interval: float, request_retention: float) -> None:
        """`interval` and `request_retention`, how long a request_id is remembered, are in seconds."""
        self._store = store
        self._endings = endings
        self._interval = interval
        self._request_retention = timedelta(seconds=request_retention)

    async def run(self) -> None:
        """Do it again and again until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.once()
            except CoxswainError as error:
                logger.warning("housekeeping_put_off", reason=error.reason)
            except Exception:
                logger.exception("housekeeping_failed")

    async def once(self) -> None:
        """Do what is due now."""
        now = utc_now()
        async with self._store.read() as work:
            overdue = await work.executions.overdue(now, _BATCH)
            forgotten = await work.executions.open_grants(now - _GRANT_PATIENCE, _BATCH)
            unfinished = await work.executions.count(_STATES)
            forgettable = await work.requests.oldest(now - self._request_retention)
        for state in _STATES:
            UNFINISHED.labels(state).set(unfinished.get(state, 0))
        for execution_id in overdue:
            await self._end_waiting(execution_id)
        if forgettable is not None:
            async with self._store.write() as work:
                await work.requests.forget(forgettable)
        for execution_id in forgotten:
            if not await self._endings.revoke(execution_id):
                break

    async def _end_waiting(self, execution_id: str) -> None:
        async with self._store.write() as work:
            execution = await work.executions.lock(execution_id)
            # A worker may have claimed it meanwhile, and ends it then.
            if execution is None or execution.state.terminal or execution.state is ExecutionState.RUNNING:
                return
            # A worker may have parked it without having heard of the cancellation.
            cancelled = execution.cancel_requested_at is not None
            await self._endings.end(work, execution, None if cancelled else _timed_out(execution))
        await self._endings.announce(execution_id, execution.last_sequence + 1)


def _timed_out(execution: Execution) -> ExecutionError:
    return ExecutionError(
        "EXECUTION_TIMEOUT",
        f"the execution took longer than its timeout of {execution.timeout or 0:g} s and was {execution.state} when it "
        "ended; start it with a longer timeout, or resume it to keep what is finished",
    )
