"""Why a run stops before its crew's last task, and the one place where that is decided."""

import asyncio
from collections.abc import Sequence

import structlog

from services.common.errors import CoxswainError
from services.orchestrator.domain.execution import Execution, ExecutionError, ModelWait, OnCredentialExpiry
from services.orchestrator.worker.host.fenced_write import Fenced
from services.orchestrator.worker.host.principals import CredentialExpired

logger = structlog.get_logger(__name__)


class Stop(Exception):
    """The run has to stop; what is at work is to be killed."""


class Cancelled(Stop):
    """The execution's cancellation was requested."""


class Failed(Stop):
    """The execution fails, in the task at an index or (None) as a whole."""

    def __init__(self, error: ExecutionError, task_index: int | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.task_index = task_index


class TaskWaits(Exception):
    """An attempt at a task has ended because a person has to be asked first; the run goes on with others."""


class CredentialNeeded(Stop):
    """The execution's user has to renew their credential."""


class ModelsAway(Stop):
    """The execution can do nothing until models whose providers fail are called again."""

    def __init__(self, waits: Sequence[ModelWait]) -> None:
        super().__init__("the providers of its models fail")
        self.wake_at = min(wait.retry_at for wait in waits)


class Lost(Stop):
    """The execution is another host's now, or has ended: nothing may be written."""


class LeaseLost(Lost):
    """Others may think this host dead: nothing may be written until it is known who has the execution."""


class StopSignal:
    """Keeps the first reason to stop one run, wherever it comes from. For the thread of the event loop only."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._stopped = asyncio.Event()
        self.reason: Stop | None = None
        """None while the run may continue."""

    def stop(self, reason: Stop) -> None:
        """Stop the run; the first reason counts."""
        self.reason = self.reason or reason
        self._stopped.set()

    def fail(self, error: BaseException) -> None:
        """Stop the run for an exception that was raised while it worked."""
        self.stop(self._reason_for(error))

    async def wait(self) -> None:
        """Wait until there is a reason."""
        await self._stopped.wait()

    def _reason_for(self, error: BaseException) -> Stop:
        match error:
            case Stop():
                return error
            case Fenced():
                return Lost()
            case CredentialExpired():
                if self._execution.on_credential_expiry is OnCredentialExpiry.FAIL:
                    return Failed(ExecutionError("CREDENTIAL_EXPIRED", str(error)))
                return CredentialNeeded()
            case CoxswainError():
                return Failed(ExecutionError(error.reason, error.message))
            case _:
                logger.error("run_failed", execution_id=self._execution.id, exc_info=error)
                return Failed(ExecutionError("INTERNAL", "the worker failed; its log holds the cause"))
