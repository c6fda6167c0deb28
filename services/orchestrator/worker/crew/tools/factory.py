"""Builds tools from their specifications. Only the tools in this list can be built."""

import functools
from typing import TYPE_CHECKING, Any

from crewai.utilities.pydantic_schema_utils import create_model_from_schema

from services.orchestrator.domain.crew import ToolSpec
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.worker.crew.tools.base import JournaledTool
from services.orchestrator.worker.crew.tools.calculator import Calculator
from services.orchestrator.worker.crew.tools.current_time import CurrentTime
from services.orchestrator.worker.crew.tools.text_statistics import TextStatistics
from services.orchestrator.worker.link.errors import TaskError

if TYPE_CHECKING:
    from services.orchestrator.worker.crew.attempt import TaskAttempt

CLASSES: dict[str, type[JournaledTool]] = {
    "calculator": Calculator,
    "current_time": CurrentTime,
    "text_statistics": TextStatistics,
}


def build_tools(specs: tuple[ToolSpec, ...], attempt: "TaskAttempt") -> list[JournaledTool]:
    """Return the tools for one attempt at a task; of two with one name the later counts.

    Raises:
        TaskError: this release does not have this tool.
    """
    return list({spec.name: _build(spec, attempt) for spec in specs}.values())


def _build(spec: ToolSpec, attempt: "TaskAttempt") -> JournaledTool:
    kind = CLASSES.get(spec.name)
    if kind is None:
        raise TaskError("TASK_FAILED", f'this release has no tool "{spec.name}"', fatal=True)
    return kind.build(TOOLS[spec.name], spec.config, attempt, arguments_model(spec.name))


@functools.cache
def arguments_model(tool: str) -> type[Any]:
    """Return the pydantic model of a tool's arguments, as CrewAI wants it."""
    return create_model_from_schema(
        TOOLS[tool].arguments_schema, model_name=f"{tool.title().replace('_', '')}Arguments"
    )
