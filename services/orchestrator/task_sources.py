"""What a task is made from besides its definition: results of other tasks, and the inputs that its condition reads."""

from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.task_order import context_of
from services.orchestrator.expressions import Expression


def results_used(spec: CrewSpec, index: int) -> list[int]:
    """Return the places of the tasks whose results a task gets or its condition reads. May take milliseconds."""
    read = set(_members(spec.tasks[index].condition, "tasks"))
    by_condition = {earlier for earlier in range(index) if spec.tasks[earlier].name in read}
    return sorted({*context_of(spec, index), *by_condition})


def inputs_of_condition(condition: str) -> list[str]:
    """Return the names of the inputs that a condition reads. May take milliseconds."""
    return _members(condition, "inputs")


def _members(condition: str, variable: str) -> list[str]:
    if not condition:
        return []
    return [name for name in Expression(condition).members(variable) if name is not None]
