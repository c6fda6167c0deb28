"""Builds tools from their specifications. Only the tools in this list can be built."""

import functools
from typing import TYPE_CHECKING, Any

from crewai.tools import BaseTool
from crewai.utilities.pydantic_schema_utils import create_model_from_schema

from coxswain.orchestrator.worker.link_pb2 import AgentTool
from services.common.grpc.json_values import from_struct
from services.orchestrator.domain.crew import ToolSpec
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.worker.crew.tools.base import JournaledTool
from services.orchestrator.worker.crew.tools.calculator import Calculator
from services.orchestrator.worker.crew.tools.current_time import CurrentTime
from services.orchestrator.worker.crew.tools.host_tool import HostTool
from services.orchestrator.worker.crew.tools.text_statistics import TextStatistics
from services.orchestrator.worker.link.errors import TaskError

if TYPE_CHECKING:
    from services.orchestrator.worker.crew.attempt import TaskAttempt

CLASSES: dict[str, type[JournaledTool]] = {
    "calculator": Calculator,
    "current_time": CurrentTime,
    "text_statistics": TextStatistics,
}


def build_tools(specs: tuple[ToolSpec, ...], attempt: "TaskAttempt") -> list[BaseTool]:
    """Return the tools that `specs`, one of the crew's `tool_sets`, stands for, for one attempt at a task.

    Raises:
        TaskError: this release does not have this tool.
    """
    return [_build(tool, attempt) for tool in attempt.session.tools(specs)]


def _build(tool: AgentTool, attempt: "TaskAttempt") -> BaseTool:
    if not tool.in_crew_process:
        return HostTool.build(tool, attempt)
    kind = CLASSES.get(tool.name)
    if kind is None:
        raise TaskError("TASK_FAILED", f'this release has no tool "{tool.name}"', fatal=True)
    return kind.build(TOOLS[tool.name], from_struct("config", tool.config), attempt, arguments_model(tool.name))


@functools.cache
def arguments_model(tool: str) -> type[Any]:
    """Return the pydantic model of a tool's arguments, as CrewAI wants it."""
    return create_model_from_schema(
        TOOLS[tool].arguments_schema, model_name=f"{tool.title().replace('_', '')}Arguments"
    )
