"""What the tasks of one segment share in a crew process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from crewai.utilities.string_utils import sanitize_tool_name

from coxswain.models.v1.model_pb2 import Model
from coxswain.orchestrator.worker.link_pb2 import AgentTool, CrewRequest, HostReply, OpenSession
from services.common.grpc.json_values import from_value
from services.orchestrator.domain.crew import AgentSpec, CrewSpec, ToolSpec
from services.orchestrator.domain.tool_sets import tool_sets
from services.orchestrator.messages.crews import spec_from_proto
from services.orchestrator.worker.crew.pacing import Pacer


class Link(Protocol):
    """The way to the host; see `CrewEnd`."""

    def call(self, request: CrewRequest, *, timeout: float | None = None) -> HostReply:
        """Return the host's reply."""
        ...

    def notify(self, request: CrewRequest) -> None:
        """Ask the host for something that needs no reply."""
        ...


@dataclass(slots=True)
class Session:
    """One segment: the crew with every model name filled in, its inputs, and the link to the host."""

    link: Link
    execution_id: str
    spec: CrewSpec
    inputs: dict[str, Any]
    models: Mapping[str, Model]
    started_at: datetime
    """When the execution was started, in UTC."""
    tool_sets: Sequence[tuple[tuple[ToolSpec, ...], Sequence[AgentTool]]] = ()
    """What the tools are that agents get, by what the crew's document says of them."""
    host_tools: Mapping[str, AgentTool] = field(default_factory=dict)
    """The tools that the host calls, by the name that CrewAI makes of the one that models are told."""
    vectors: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Embeddings of knowledge by model and text: made once, whichever task needs them."""
    _pacers: dict[str, Pacer] = field(default_factory=dict)

    @classmethod
    def open(cls, link: Link, request: OpenSession) -> "Session":
        """Return the session that the host's first request describes."""
        spec = spec_from_proto(request.spec)
        inputs = {name: from_value(f"inputs.{name}", value) for name, value in request.inputs.items()}
        models = {model.name: model for model in request.models}
        started_at = request.start_time.ToDatetime(UTC)
        tools = {tool.id: tool for tool in request.tools}
        resolved = [[tools[tool_id] for tool_id in tool_set.tool_ids] for tool_set in request.tool_sets]
        sets = list(zip(tool_sets(spec), resolved, strict=True))
        called_by_host = {
            sanitize_tool_name(tool.model_name): tool for tool in request.tools if not tool.in_crew_process
        }
        session = cls(link, request.execution_id, spec, inputs, models, started_at, sets, called_by_host)
        session._pacers = {
            agent.name: Pacer(agent.max_calls_per_minute) for agent in spec.agents if agent.max_calls_per_minute
        }
        return session

    def tools(self, specs: tuple[ToolSpec, ...]) -> Sequence[AgentTool]:
        """Return the tools that one of the crew's `tool_sets` stands for."""
        return next(tools for known, tools in self.tool_sets if known == specs)

    def agent(self, name: str) -> AgentSpec:
        """Return the agent of that name."""
        return next(agent for agent in self.spec.agents if agent.name == name)

    def model(self, name: str) -> Model:
        """Return what is known of a model."""
        return self.models.get(name, Model(name=name))

    def pacer(self, agent: str) -> Pacer | None:
        """Return what keeps an agent to its calls per minute, if it has a limit."""
        return self._pacers.get(agent)
