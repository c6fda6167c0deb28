"""What is wrong with the checks and conditions of a crew."""

from collections.abc import Iterator
from itertools import islice

from services.common.errors import FieldViolation
from services.orchestrator.domain.crew import CrewSpec, OutputCheck
from services.orchestrator.expressions import BadExpression, Expression
from services.orchestrator.output_checks import BadCheck, compile_check
from services.orchestrator.suggestions import few_suggestions, suggestion

_MOST_FAULTS = 200
"""Of one answer: each condition may name as many tasks that there are not as it has room for."""


def needs_checking(spec: CrewSpec) -> bool:
    """Return whether a crew has checks or conditions at all."""
    return any(agent.checks for agent in spec.agents) or any(task.checks or task.condition for task in spec.tasks)


def check_faults(spec: CrewSpec) -> list[FieldViolation]:
    """Return what is wrong with the checks and conditions of a crew, the first faults of very many.

    It parses: not in an event loop.
    """
    with few_suggestions():
        return list(islice(_all_faults(spec), _MOST_FAULTS))


def _all_faults(spec: CrewSpec) -> Iterator[FieldViolation]:
    owners = [(f"spec.agents[{index}]", agent.checks) for index, agent in enumerate(spec.agents)]
    owners += [(f"spec.tasks[{index}]", task.checks) for index, task in enumerate(spec.tasks)]
    for owner, checks in owners:
        for index, check in enumerate(checks):
            if (kind := _kind(check)) and (fault := _fault(check)):
                yield FieldViolation(f"{owner}.checks[{index}].{kind}", str(fault))
    for index in range(len(spec.tasks)):
        yield from _condition_faults(spec, index)


def _kind(check: OutputCheck) -> str:
    names = ("matches", "matches_not", "characters", "words", "required_words", "forbidden_words", "expression")
    if check.json_schema is not None:
        return "json_schema"
    return next((name for name in names if getattr(check, name)), "")


def _fault(check: OutputCheck) -> BadCheck | None:
    try:
        compile_check(check)
    except BadCheck as fault:
        return fault
    return None


def _condition_faults(spec: CrewSpec, index: int) -> Iterator[FieldViolation]:
    condition = spec.tasks[index].condition
    if not condition:
        return
    path = f"spec.tasks[{index}].condition"
    try:
        expression = Expression(condition)
    except BadExpression as error:
        yield FieldViolation(path, str(error))
        return
    unknown = sorted(expression.names() - {"tasks", "inputs"})
    if unknown:
        yield FieldViolation(path, f"names {', '.join(unknown)}; there is tasks.NAME and inputs.NAME")
    ended = _ended_before(spec, index)
    for name in dict.fromkeys(expression.members("tasks")):
        if name is None:
            yield FieldViolation(path, 'has to name tasks as in tasks.draft.text or tasks["my task"].text')
        elif name not in ended:
            hint = suggestion(name, ended) if ended else "no task ends before this one"
            yield FieldViolation(path, f'names "{name}", which is no task that has ended before this one; {hint}')


def _ended_before(spec: CrewSpec, index: int) -> list[str]:
    """Return the tasks that have ended when a task starts: all before it but those that run beside it."""
    end = index
    if spec.tasks[index].async_execution:
        while end and spec.tasks[end - 1].async_execution:
            end -= 1
    return [task.name for task in spec.tasks[:end]]
