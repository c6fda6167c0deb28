"""Executions that continue others: what is asked for, and what becomes of the tasks."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.orchestrator.domain.limits import ExecutionLimits


class TaskReuse(StrEnum):
    """What becomes of a task; the names are those of `coxswain.orchestrator.v1.TaskReuse`."""

    COPIED = "COPIED"
    REQUESTED = "REQUESTED"
    NEW = "NEW"
    UNFINISHED = "UNFINISHED"
    DEFINITION_CHANGED = "DEFINITION_CHANGED"
    INPUTS_CHANGED = "INPUTS_CHANGED"
    CONTEXT_CHANGED = "CONTEXT_CHANGED"


@dataclass(frozen=True, slots=True)
class Continuation:
    """Which execution to continue, and what is to be different. None means as before."""

    execution_id: str
    fork: bool
    """Whether another course of it is wanted, rather than its end: one that SUCCEEDED has that too."""
    crew_revision: int | None
    """0 means the newest."""
    model: str | None
    """Empty means the crew's own."""
    inputs: Mapping[str, Any]
    """Besides those it has, and instead of those of the same names."""
    labels: Mapping[str, str]
    """Besides those it has, and instead of those of the same names."""
    timeout: float | None
    """Seconds."""
    limits: ExecutionLimits | None
    from_task: str
    """Runs again in any case; empty when none is named."""

    @property
    def keeps_models(self) -> bool:
        """Whether tasks that would be copied are so with the model they ran on: `model` is for those that run.

        A fork that says nothing of where it begins is another course from the first task on which another model makes
        a difference.
        """
        return not self.fork or bool(self.from_task)
