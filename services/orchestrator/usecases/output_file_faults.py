"""What is wrong with the names of the files that results are stored in."""

from collections.abc import Iterator, Mapping
from typing import Any

from services.common.errors import FieldViolation
from services.orchestrator.artifact_contents import output_file_name
from services.orchestrator.domain.artifact import BadFileName, conflict_text, conflicting, name_key
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.placeholders import placeholders

_SAMPLE = "x"


def output_file_faults(spec: CrewSpec) -> Iterator[FieldViolation]:
    """Yield names that are none whatever the inputs are, and those that cannot lie beside an earlier one."""
    earlier: list[str] = []
    for index, task in enumerate(spec.tasks):
        if not task.output_file:
            continue
        path, names = f"spec.tasks[{index}].output_file", placeholders(task.output_file)
        try:
            name = output_file_name(task, dict.fromkeys(names, _SAMPLE))
        except BadFileName as error:
            yield FieldViolation(path, str(error))
            continue
        if names:
            continue
        in_the_way = conflicting(name, earlier)
        if in_the_way is not None:
            yield FieldViolation(path, conflict_text(name, in_the_way))
        earlier.append(name)


def output_file_warnings(spec: CrewSpec) -> Iterator[FieldViolation]:
    """Yield names of files that an earlier task stores its result in as well."""
    earlier: dict[str, str] = {}
    for index, task in enumerate(spec.tasks):
        if not task.output_file:
            continue
        key = name_key(task.output_file)
        if key in earlier:
            yield FieldViolation(
                f"spec.tasks[{index}].output_file",
                f'replaces the file of task "{earlier[key]}", which has that name too',
            )
        earlier[key] = task.name


def output_name_faults(spec: CrewSpec, inputs: Mapping[str, Any], path: str) -> Iterator[FieldViolation]:
    """Yield inputs with which a result's file has a name that is none; all that the names need are there.

    Violations name fields of a start that lies at `path`.
    """
    stored: list[str] = []
    for task in spec.tasks:
        names = placeholders(task.output_file)
        try:
            name = output_file_name(task, inputs) if task.output_file else ""
        except BadFileName as error:
            yield FieldViolation(
                f"{path}inputs.{names[0]}", f'is part of the output_file of task "{task.name}": {error}'
            )
            continue
        in_the_way = conflicting(name, stored) if names else None
        if in_the_way is not None:
            yield FieldViolation(
                f"{path}inputs.{names[0]}",
                f'is part of the output_file of task "{task.name}": {conflict_text(name, in_the_way)}',
            )
        if name:
            stored.append(name)
