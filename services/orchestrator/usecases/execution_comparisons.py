"""Lays executions side by side: what they were given, and what has come of each task."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.errors import FieldViolation, NotFound
from services.common.identity.principal import Principal
from services.common.paging import Pager
from services.orchestrator.domain.comparison import (
    ComparedTask,
    Comparison,
    CutText,
    InputComparison,
    TaskComparison,
)
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.execution import Execution, TaskRun
from services.orchestrator.domain.task_order import context_of, fill_in_models
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.task_runs import TaskRunRepository, read_named
from services.orchestrator.task_fingerprints import Fingerprint, task_fingerprints
from services.orchestrator.usecases.execution_starter import existing_execution

_DEFAULT_CHARACTERS = 2000
_MOST_INPUT_CHARACTERS = 128 * 1024
"""Of all values of all inputs together."""
_MOST_ERROR_CHARACTERS = 2000
_FIELDS = ("crew_id", "crew_revision", "model", "state")
# A result may have megabytes, of which the beginning is kept.
_TASKS = Pager("compared_tasks", key_types=(int,), portion=4)


@dataclass(frozen=True, slots=True)
class _Compared:
    """An execution, and what each of its tasks is made from, by name."""

    execution: Execution
    made_from: Mapping[str, tuple[Fingerprint, tuple[str, ...]]]


class ExecutionComparisons:
    """Compares executions of a group."""

    def __init__(self, database: Database, *, default_model: str) -> None:
        self._database = database
        self._default_model = default_model

    async def compare(
        self, principal: Principal, ids: Sequence[str], characters: int, size: int, token: str
    ) -> Comparison:
        """Return executions side by side, with texts of at most so many characters (0: the default).

        Raises:
            NotFound: the group does not have one of them.
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        characters = characters or _DEFAULT_CHARACTERS
        async with self._database.read() as connection:
            executions = await _existing(connection, principal.group_id, ids)
            specs = [await CrewRepository(connection).spec(one.crew_id, one.crew_revision) for one in executions]
            # Documents may be megabytes.
            compared = await asyncio.to_thread(self._compared, executions, specs)
            names = _in_order([await TaskRunRepository(connection, id_).names() for id_ in ids])

            async def read(after: list[Any] | None, limit: int) -> Sequence[TaskComparison]:
                first = after[0] + 1 if after else 0
                return await _tasks(connection, compared, names, range(first, first + limit), characters)

            tasks = await _TASKS.page(size, token, {"ids": list(ids)}, read, lambda task: [task.position], _size)
        if token:
            return Comparison((), (), (), tasks)
        inputs = _differing_inputs(executions, characters)
        fields = [name for name in _FIELDS if len({getattr(execution, name) for execution in executions}) > 1]
        return Comparison(
            [_without_texts(execution) for execution in executions],
            [*fields, *(f"inputs.{given.name}" for given in inputs)],
            inputs,
            tasks,
        )

    def _compared(self, executions: Sequence[Execution], specs: Sequence[CrewSpec]) -> list[_Compared]:
        compared = []
        for execution, document in zip(executions, specs, strict=True):
            spec = fill_in_models(document, default=self._default_model, override=execution.model)
            fingerprints = task_fingerprints(spec, execution.inputs)
            contexts = [tuple(spec.tasks[i].name for i in context_of(spec, index)) for index in range(len(spec.tasks))]
            names = [task.name for task in spec.tasks]
            compared.append(
                _Compared(execution, dict(zip(names, zip(fingerprints, contexts, strict=True), strict=True)))
            )
        return compared


async def _tasks(
    connection: AsyncConnection, compared: Sequence[_Compared], names: Sequence[str], places: range, characters: int
) -> list[TaskComparison]:
    wanted = names[places.start : places.stop]
    if not wanted:
        return []
    found = await read_named(connection, [one.execution.id for one in compared], wanted)
    return [_task(places.start + offset, name, compared, found, characters) for offset, name in enumerate(wanted)]


def _task(
    position: int, name: str, compared: Sequence[_Compared], found: Mapping[tuple[str, str], TaskRun], characters: int
) -> TaskComparison:
    runs = [found.get((one.execution.id, name)) for one in compared]
    texts = {run.output.text if run is not None and run.output is not None else None for run in runs}
    made_from = {one.made_from.get(name) for one in compared}
    return TaskComparison(
        position=position,
        name=name,
        same_output=len(texts) == 1 and None not in texts,
        same_definition=len(made_from) == 1 and None not in made_from,
        results=[None if run is None else _beginning(run, characters) for run in runs],
    )


def _beginning(run: TaskRun, characters: int) -> ComparedTask:
    if run.error is not None:
        run = replace(run, error=replace(run.error, message=run.error.message[:_MOST_ERROR_CHARACTERS]))
    if run.output is None:
        return ComparedTask(run, cut=False)
    text = CutText.of(run.output.text, characters)
    return ComparedTask(replace(run, output=replace(run.output, text=text.text, structured=None)), cut=text.cut)


async def _existing(connection: AsyncConnection, group_id: str, ids: Sequence[str]) -> list[Execution]:
    """Return executions of a group. Raises NotFound, with a violation for each that the group does not have."""
    executions: list[Execution] = []
    missing: list[FieldViolation] = []
    first: NotFound | None = None
    for index, execution_id in enumerate(ids):
        try:
            executions.append(await existing_execution(connection, group_id, execution_id))
        except NotFound as error:
            missing.append(FieldViolation(f"ids[{index}]", error.message))
            first = first or error
    if first is not None:
        text = "; ".join(f"{fault.field}: {fault.description}" for fault in missing)
        raise NotFound(text, metadata=first.metadata, violations=missing)
    return executions


def _in_order(of_executions: Sequence[Sequence[str]]) -> list[str]:
    """Return all names: those of the first execution in its order, then those that only later ones have."""
    return list(dict.fromkeys(name for names in of_executions for name in names))


def _differing_inputs(executions: Sequence[Execution], characters: int) -> list[InputComparison]:
    names = dict.fromkeys(name for execution in executions for name in execution.inputs)
    texts = {name: [_json(execution.inputs, name) for execution in executions] for name in names}
    differing = {name: values for name, values in texts.items() if len(set(values)) > 1}
    most = min(characters, _MOST_INPUT_CHARACTERS // max(1, len(differing) * len(executions)))
    return [
        InputComparison(name, [CutText.of(value, most) for value in values])
        for name, values in sorted(differing.items())
    ]


def _json(inputs: Mapping[str, Any], name: str) -> str:
    return json.dumps(inputs[name], ensure_ascii=False, sort_keys=True) if name in inputs else ""


def _without_texts(execution: Execution) -> Execution:
    error = execution.error and replace(execution.error, message=execution.error.message[:_MOST_ERROR_CHARACTERS])
    return replace(execution, inputs={}, labels={}, result=None, error=error)


def _size(task: TaskComparison) -> int:
    return sum(
        4 * (len(result.run.output.text) if result.run.output else 0) + _MOST_ERROR_CHARACTERS
        for result in task.results
        if result is not None
    )
