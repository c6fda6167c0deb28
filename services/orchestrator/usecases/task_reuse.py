"""Which tasks of an execution that continues another one are copied, and why the others run. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from services.orchestrator.domain.continuation import TaskReuse
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.execution import TaskRun
from services.orchestrator.task_fingerprints import Fingerprint
from services.orchestrator.task_sources import results_used


@dataclass(frozen=True, slots=True)
class Earlier:
    """A task of the execution that is continued."""

    run: TaskRun
    fingerprint: Fingerprint


def decide_reuse(
    spec: CrewSpec, fingerprints: Sequence[Fingerprint], earlier: Mapping[str, Earlier], from_task: str
) -> list[TaskReuse]:
    """Return what becomes of each task of a crew, in its order. Tasks of both executions are matched by name.

    A task is copied when it has finished or was skipped, nothing that it is made from has changed, and every task whose
    result it uses is copied as well. `from_task` runs whatever there is of it; empty means that none is named.
    """
    decided: list[TaskReuse] = []
    for index, task in enumerate(spec.tasks):
        before = earlier.get(task.name)
        if task.name == from_task:
            decided.append(TaskReuse.REQUESTED)
        elif before is None:
            decided.append(TaskReuse.NEW)
        elif not before.run.state.done:
            decided.append(TaskReuse.UNFINISHED)
        elif before.fingerprint.definition != fingerprints[index].definition:
            decided.append(TaskReuse.DEFINITION_CHANGED)
        elif before.fingerprint.inputs != fingerprints[index].inputs:
            decided.append(TaskReuse.INPUTS_CHANGED)
        elif any(decided[other] is not TaskReuse.COPIED for other in results_used(spec, index)):
            decided.append(TaskReuse.CONTEXT_CHANGED)
        else:
            decided.append(TaskReuse.COPIED)
    return decided


@dataclass(frozen=True, slots=True)
class JournalReuse:
    """Whose journals go along: the index of each task, and the one it had before."""

    answers: dict[int, int]
    """Answers of models, which apply to the same prompts alone."""
    tools: dict[int, int]
    """Outcomes of tools that may run twice: of tasks that are what they were."""
    effects: dict[int, int]
    """Calls of tools that must not run twice: of all unfinished tasks, whatever has become of their answers."""


def decide_journals(
    spec: CrewSpec,
    fingerprints: Sequence[Fingerprint],
    earlier: Mapping[str, Earlier],
    reuse: Sequence[TaskReuse],
    declined: Collection[int],
) -> JournalReuse:
    """Return which unfinished tasks go on where they stopped.

    One that failed by the answers themselves would fail again by the same ones: it starts over, and so does one whose
    result a person has declined (by the indices of then). What has been done in the world stays done all the same.
    """
    answers: dict[int, int] = {}
    tools: dict[int, int] = {}
    effects: dict[int, int] = {}
    for index, (task, decision) in enumerate(zip(spec.tasks, reuse, strict=True)):
        before = earlier.get(task.name)
        if before is None or before.run.state.done:
            continue
        effects[before.run.task_index] = index
        if decision is not TaskReuse.UNFINISHED:
            continue
        if before.run.task_index in declined or not goes_on(before.run):
            continue
        answers[before.run.task_index] = index
        same_context = all(reuse[other] is TaskReuse.COPIED for other in results_used(spec, index))
        if before.fingerprint == fingerprints[index] and same_context:
            tools[before.run.task_index] = index
    return JournalReuse(answers, tools, effects)


def goes_on(run: TaskRun) -> bool:
    """Return whether an unfinished task may go on where it stopped."""
    return run.error is None or run.error.reason != "TASK_FAILED"
