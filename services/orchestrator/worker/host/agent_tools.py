"""What the tools of a crew are, for one segment of its execution."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coxswain.orchestrator.worker.link_pb2 import AgentTool, OpenSession, ToolSet
from services.common.grpc.json_values import to_struct
from services.orchestrator.domain.crew import CrewSpec, Process, ToolSpec
from services.orchestrator.domain.execution import TaskState
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.tool_resolver import MAX_TOOLS_PER_AGENT, built_in

_READ_RESULT = "read_result"


@dataclass(frozen=True, slots=True)
class AgentTools:
    """The tools of a crew by the ids under which its crew process knows them."""

    tools: Mapping[str, ResolvedTool]
    sets: Sequence[Sequence[str]]
    """Ids in the order of `tool_sets`."""

    @classmethod
    def of(cls, resolved: Sequence[Sequence[ResolvedTool]]) -> "AgentTools":
        """Return the tools that each of the `tool_sets` of a crew stands for."""
        known: list[ResolvedTool] = []
        sets: list[list[str]] = []
        for tools in resolved:
            known += [tool for tool in tools if tool not in known]
            sets.append([str(known.index(tool)) for tool in tools])
        return cls({str(number): tool for number, tool in enumerate(known)}, sets)

    def put_into(self, session: OpenSession) -> None:
        """Tell a crew process of the tools."""
        session.tools.extend(_to_proto(tool_id, tool) for tool_id, tool in self.tools.items())
        session.tool_sets.extend(ToolSet(tool_ids=ids) for ids in self.sets)


def with_read_result(tools: Sequence[ResolvedTool]) -> list[ResolvedTool]:
    """Return tools with the one that reads on in long results, if one of them may have such."""
    long = any(not tool.in_crew_process and not tool.in_host for tool in tools)
    if not long or len(tools) >= MAX_TOOLS_PER_AGENT or any(tool.name == _READ_RESULT for tool in tools):
        return list(tools)
    return [*tools, built_in(TOOLS[_READ_RESULT], ToolSpec(_READ_RESULT))]


def needed_tools(spec: CrewSpec, states: Sequence[TaskState]) -> list[tuple[ToolSpec, ...]]:
    """Return those of a crew's `tool_sets` that tasks which are not done may use."""
    agents = {agent.name: agent for agent in spec.agents}
    needed: list[tuple[ToolSpec, ...]] = []
    for task, state in zip(spec.tasks, states, strict=True):
        if state.done:
            continue
        own = agents.get(task.agent)
        shared = spec.process is Process.HIERARCHICAL or own is None or own.allow_delegation
        needed += [agent.tools for agent in (spec.agents if shared or own is None else (own,))]
        needed.append(task.tools)
    return needed


def _to_proto(tool_id: str, tool: ResolvedTool) -> AgentTool:
    return AgentTool(
        id=tool_id,
        name=tool.name,
        in_crew_process=tool.in_crew_process,
        config=to_struct(tool.config),
        model_name=tool.model_name,
        description=tool.description,
        arguments_schema_json=json.dumps(tool.arguments_schema),
        polled=tool.polled,
    )
