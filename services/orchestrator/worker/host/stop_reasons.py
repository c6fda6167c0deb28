"""How a run can stop before its crew's last task."""

from services.orchestrator.domain import ExecutionError


class Stop(Exception):
    """The run has to stop; what is at work is to be killed."""


class Cancelled(Stop):
    """The execution's end was asked for."""


class Failed(Stop):
    """The execution fails, in the task at a place or (None) as a whole."""

    def __init__(self, error: ExecutionError, task_index: int | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.task_index = task_index


class CredentialNeeded(Stop):
    """The execution's user has to renew their credential."""


class Lost(Stop):
    """The execution is another host's now, or has ended: nothing may be written."""


class LeaseLost(Lost):
    """Others may think this host dead: nothing may be written until it is known who has the execution."""
