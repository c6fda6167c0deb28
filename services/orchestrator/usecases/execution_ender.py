"""The end of executions that no worker is running."""

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import CoxswainError, DeadlineExceeded, Unavailable
from services.orchestrator.domain.execution import Execution, ExecutionError, ExecutionState
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.events import error_to_proto, new_event
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.gateway_calls import GatewayCallRepository
from services.orchestrator.usecases.ports import Grants

logger = structlog.get_logger(__name__)


class ExecutionEnder:
    """Ends executions that are queued or parked; a running one is ended by its worker."""

    def __init__(self, database: Database, grants: Grants, bus: HintBus) -> None:
        self._database = database
        self._grants = grants
        self._bus = bus

    async def cancel(self, connection: AsyncConnection, execution: Execution) -> None:
        """Request a locked execution's cancellation; one that no worker runs ends at once.

        Call `announce_cancel` after the transaction.
        """
        await ExecutionRepository(connection).request_cancel(execution.id, utc_now())
        if execution.state is not ExecutionState.RUNNING or execution.ready:
            await self.end(connection, execution, None)

    async def announce_cancel(self, execution: Execution) -> None:
        """Tell watchers or the worker of a cancellation, for the execution as it was left."""
        if execution.state.terminal:
            await self.announce(execution)
        else:
            self._bus.publish(Hint(HintKind.CANCEL_REQUESTED, execution.id))

    async def end(self, connection: AsyncConnection, execution: Execution, error: ExecutionError | None) -> None:
        """End a locked execution: FAILED with an error, CANCELLED without. Call `announce` after the transaction."""
        if error is None:
            state, body = ExecutionState.CANCELLED, new_event(execution_pb2.ExecutionCancelled())
        else:
            failed = execution_pb2.ExecutionFailed(error=error_to_proto(error))
            state, body = ExecutionState.FAILED, new_event(failed)
        await EventRepository(connection).append(execution.id, [body])
        await ExecutionRepository(connection).end(execution.id, state, error, utc_now())
        # What it has begun and waits for a person with is cancelled at its source, as long as a gateway waits with it.
        await GatewayCallRepository(connection).request_cancels(execution.id)

    async def announce(self, ended: Execution) -> None:
        """Send watchers a hint, and revoke the grant; housekeeping tries again what fails of that."""
        self._bus.publish(Hint(HintKind.EVENTS_STORED, ended.id, ended.last_sequence, ended.group_id))
        self._bus.publish(Hint(HintKind.QUESTIONS_CHANGED, ended.id))
        await self.revoke(ended.id)

    async def revoke(self, execution_id: str) -> bool:
        """Revoke the grant of an execution that has ended; False when auth cannot be asked now."""
        try:
            await self._grants.revoke(execution_id)
            async with self._database.write() as connection:
                await ExecutionRepository(connection).grants_revoked([execution_id])
        except CoxswainError as error:
            logger.warning("grant_not_revoked", execution_id=execution_id, reason=error.reason)
            return not isinstance(error, Unavailable | DeadlineExceeded)
        return True
