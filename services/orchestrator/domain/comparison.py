"""Executions side by side. Lists about executions have the order in which these were named."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.paging import Page
from services.orchestrator.domain.execution import Execution, TaskRun


@dataclass(frozen=True, slots=True)
class CutText:
    """The beginning of a text, or all of it."""

    text: str
    cut: bool

    @classmethod
    def of(cls, text: str, most: int) -> "CutText":
        """Return a text of at most so many characters."""
        return cls(text[:most], len(text) > most)


@dataclass(frozen=True, slots=True)
class InputComparison:
    """One input that differs; JSON texts, empty where an execution does not have it."""

    name: str
    values: Sequence[CutText]


@dataclass(frozen=True, slots=True)
class ComparedTask:
    """A task in one execution."""

    run: TaskRun
    """Its output has its beginning alone."""
    cut: bool


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """The tasks of one name; None where an execution has none."""

    position: int
    """In the list of all names."""
    name: str
    same_output: bool
    same_definition: bool
    results: Sequence[ComparedTask | None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What several executions have in common and what not. All but the tasks is empty after the first page."""

    executions: Sequence[Execution]
    differing_fields: Sequence[str]
    inputs: Sequence[InputComparison]
    tasks: Page[TaskComparison]
