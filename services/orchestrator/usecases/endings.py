"""The end of executions on which no worker is at work."""

import structlog

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.errors import CoxswainError, DeadlineExceeded, Unavailable
from services.orchestrator.domain.execution import Execution, ExecutionError, ExecutionState
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.events import new_event
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.protocols import Store, UnitOfWork
from services.orchestrator.usecases.ports import Grants

logger = structlog.get_logger(__name__)


class Endings:
    """Ends executions that are queued or parked; a running one is its worker's to end."""

    def __init__(self, store: Store, grants: Grants, bus: HintBus) -> None:
        self._store = store
        self._grants = grants
        self._bus = bus

    async def end(self, work: UnitOfWork, execution: Execution, error: ExecutionError | None) -> None:
        """End a locked execution: FAILED with an error, CANCELLED without. Call `announce` after the transaction."""
        if error is None:
            state, body = ExecutionState.CANCELLED, new_event(execution_pb2.ExecutionCancelled())
        else:
            told = execution_pb2.ExecutionError(reason=error.reason, message=error.message, task_name=error.task_name)
            state, body = ExecutionState.FAILED, new_event(execution_pb2.ExecutionFailed(error=told))
        await work.events.append(execution.id, [body])
        await work.executions.end(execution.id, state, error, utc_now())

    async def announce(self, execution_id: str, last_sequence: int) -> None:
        """Tell watchers, and revoke the grant; what fails of that is made up for by housekeeping."""
        self._bus.publish(Hint(HintKind.EVENTS_STORED, execution_id, last_sequence))
        await self.revoke(execution_id)

    async def revoke(self, execution_id: str) -> bool:
        """Revoke the grant of an execution that has ended; False when auth cannot be asked now."""
        try:
            await self._grants.close(execution_id)
            async with self._store.write() as work:
                await work.executions.grant_closed(execution_id)
        except CoxswainError as error:
            logger.warning("grant_not_revoked", execution_id=execution_id, reason=error.reason)
            return not isinstance(error, Unavailable | DeadlineExceeded)
        return True
