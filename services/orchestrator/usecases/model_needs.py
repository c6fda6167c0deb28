"""Which models a crew calls, and what it needs them to be able to do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from services.orchestrator.domain.crew import AgentSpec, CrewSpec, Process, TaskSpec, ToolCalling


class Capability(StrEnum):
    """What a model can do; the names are fields of `coxswain.models.v1.Capabilities`."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    TOOLS = "tools"
    JSON_SCHEMA = "json_schema"


@dataclass(frozen=True, slots=True)
class ModelNeed:
    """One thing a crew needs of one model."""

    model: str
    capability: Capability
    field: str
    """The field that needs it. Example: `spec.tasks[0].output_schema`."""
    named_in: str
    """The field that names the model; empty when it is the installation's default or the request's own choice."""
    in_words: bool = False
    """Whether a model without the capability that can write what it is asked for will do: tools in words."""


def model_needs(spec: CrewSpec, *, default: str, override: str = "") -> list[ModelNeed]:
    """Return what the crew needs of which models.

    `default` is used for every model that is not named, `override` (if any) instead of all but embedding models.
    """
    return list(_Needs(spec, default, override).all())


@dataclass(frozen=True, slots=True)
class _Choice:
    model: str
    named_in: str


class _Needs:
    def __init__(self, spec: CrewSpec, default: str, override: str) -> None:
        self._spec = spec
        self._default = default
        self._override = override

    def _choose(self, *candidates: tuple[str, str]) -> _Choice:
        if self._override:
            return _Choice(self._override, "")
        for model, field in (*candidates, (self._spec.model, "spec.model")):
            if model:
                return _Choice(model, field)
        return _Choice(self._default, "")

    def _agent_model(self, index: int) -> _Choice:
        return self._choose((self._spec.agents[index].model, f"spec.agents[{index}].model"))

    def _memory_model(self) -> _Choice:
        return self._choose((self._spec.memory.model, "spec.memory.model"))

    def _calling_model(self, index: int) -> _Choice:
        agent, path = self._spec.agents[index], f"spec.agents[{index}]"
        return self._choose(
            (agent.function_calling_model, f"{path}.function_calling_model"), (agent.model, f"{path}.model")
        )

    def all(self) -> Iterator[ModelNeed]:
        spec = self._spec
        for index, agent in enumerate(spec.agents):
            yield from self._agent(index, agent)
        positions = {agent.name: index for index, agent in enumerate(spec.agents)}
        for index, task in enumerate(spec.tasks):
            yield from self._task(index, task, positions.get(task.agent), positions)
        if spec.process is Process.HIERARCHICAL and spec.manager_agent not in positions:
            manager = self._choose((spec.manager_model, "spec.manager_model"))
            yield _need(manager, Capability.CHAT, "spec.process")
            yield from self._tools(manager, "spec.process")
        if spec.planning:
            planner = self._choose((spec.planning_model, "spec.planning_model"))
            yield _need(planner, Capability.CHAT, "spec.planning")
            yield _need(planner, Capability.JSON_SCHEMA, "spec.planning")
        if spec.memory.enabled:
            if spec.memory.embedding_model:
                field = "spec.memory.embedding_model"
                yield ModelNeed(spec.memory.embedding_model, Capability.EMBEDDINGS, field, field)
            if spec.memory.asks_model:
                asking = "analysis" if spec.memory.analysis else "consolidation"
                yield _need(self._memory_model(), Capability.JSON_SCHEMA, f"spec.memory.{asking}")

    def _agent(self, index: int, agent: AgentSpec) -> Iterator[ModelNeed]:
        path, model, calling = f"spec.agents[{index}]", self._agent_model(index), self._calling_model(index)
        yield _need(model, Capability.CHAT, path)
        if calling != model:
            yield from self._tools(calling, f"{path}.function_calling_model", agent.name)
        if agent.tools:
            yield from self._tools(calling, f"{path}.tools", agent.name)
        if agent.allow_delegation and len(self._spec.agents) > 1:
            yield from self._tools(calling, f"{path}.allow_delegation", agent.name)
        if self._spec.process is Process.HIERARCHICAL and agent.name == self._spec.manager_agent:
            yield from self._tools(calling, "spec.manager_agent", agent.name)

    def _manager_choice(self, positions: Mapping[str, int]) -> _Choice:
        manager = positions.get(self._spec.manager_agent)
        if manager is not None:
            return self._agent_model(manager)
        return self._choose((self._spec.manager_model, "spec.manager_model"))

    def _task(self, index: int, task: TaskSpec, agent: int | None, positions: Mapping[str, int]) -> Iterator[ModelNeed]:
        path = f"spec.tasks[{index}]"
        if agent is None:
            # A manager's task, or one whose unknown agent is a fault of its own.
            model = calling = self._manager_choice(positions)
        else:
            model, calling = self._agent_model(agent), self._calling_model(agent)
        if task.tools:
            yield from self._tools(calling, f"{path}.tools", task.agent)
        if task.output_schema is not None:
            yield _need(model, Capability.JSON_SCHEMA, f"{path}.output_schema")
        if task.guardrails:
            yield _need(model, Capability.JSON_SCHEMA, f"{path}.guardrails")

    def _tools(self, choice: _Choice, field: str, agent: str = "") -> Iterator[ModelNeed]:
        native = self._spec.model_calls_of(agent).tool_calling is ToolCalling.NATIVE
        yield ModelNeed(choice.model, Capability.TOOLS, field, choice.named_in, in_words=not native)


def _need(choice: _Choice, capability: Capability, field: str) -> ModelNeed:
    return ModelNeed(choice.model, capability, field, choice.named_in)
