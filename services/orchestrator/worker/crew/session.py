"""What the tasks of one segment share in a crew process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from coxswain.models.v1.model_pb2 import Model
from coxswain.orchestrator.worker.link_pb2 import CrewRequest, HostReply, OpenSession
from services.common.grpc.json_values import from_value
from services.orchestrator.domain.crew import AgentSpec, CrewSpec
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
        session = cls(link, request.execution_id, spec, inputs, models, started_at)
        session._pacers = {
            agent.name: Pacer(agent.max_calls_per_minute) for agent in spec.agents if agent.max_calls_per_minute
        }
        return session

    def agent(self, name: str) -> AgentSpec:
        """Return the agent of that name."""
        return next(agent for agent in self.spec.agents if agent.name == name)

    def model(self, name: str) -> Model:
        """Return what is known of a model."""
        return self.models.get(name, Model(name=name))

    def pacer(self, agent: str) -> Pacer | None:
        """Return what keeps an agent to its calls per minute, if it has a limit."""
        return self._pacers.get(agent)
