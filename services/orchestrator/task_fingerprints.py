"""What the results of a crew's tasks follow from, as values to compare: equal ones need no other result."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from services.orchestrator.domain.crew import AgentSpec, CrewSpec, Process, TaskSpec
from services.orchestrator.domain.task_order import context_of
from services.orchestrator.placeholders import placeholders
from services.orchestrator.task_sources import inputs_of_condition

# Names tell parts of a crew apart, limits say how long is tried, `approval` says how people are asked, `output_file`
# where the result is kept besides: another value does not make a result another one.
_AGENT_LEAVES_OUT = {"name", "max_calls_per_minute", "max_execution_time", "max_retries"}
_TASK_LEAVES_OUT = {
    "name", "agent", "context", "async_execution", "guardrail_max_retries", "approval", "output_file",
}  # fmt: skip
# Each task has those of them that it uses.
_CREW_LEAVES_OUT = {
    "name", "description", "agents", "tasks", "model", "manager_model", "manager_agent", "planning_model",
    "limits",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a result follows from, but for the results that it is made from."""

    definition: str
    """Texts, agents, tools, models, schema, guardrails, and what of the crew concerns all tasks."""
    inputs: str
    """The values of the inputs that these name."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a crew's document, and the inputs that its texts name."""

    digest: str
    names: frozenset[str]

    @classmethod
    def of(cls, document: Any) -> "_Part":
        names: set[str] = set()
        for text in _texts(document):
            names.update(placeholders(text))
        return cls(_digest(document), frozenset(names))


def task_fingerprints(spec: CrewSpec, inputs: Mapping[str, Any]) -> list[Fingerprint]:
    """Return the fingerprint of each task, in the crew's order. `spec` has its models filled in."""
    digests = {name: _digest(value) for name, value in inputs.items()}
    crew = _Part.of(_without(asdict(spec), _CREW_LEAVES_OUT) | _crew_models(spec))
    agents = {agent.name: _Part.of(_without(asdict(agent), _AGENT_LEAVES_OUT)) for agent in spec.agents}
    return [
        _fingerprint(
            [crew, _task_part(spec, index), *(agents[agent.name] for agent in _agents_of(spec, task))], digests
        )
        for index, task in enumerate(spec.tasks)
    ]


def plan_fingerprint(spec: CrewSpec, inputs: Mapping[str, Any]) -> Fingerprint:
    """Return the fingerprint of a crew's plan, which is made from all tasks and agents."""
    digests = {name: _digest(value) for name, value in inputs.items()}
    tasks = [_without(asdict(task), _TASK_LEAVES_OUT) | {"agent": task.agent} for task in spec.tasks]
    models = {"model", "function_calling_model"}
    agents = [_without(asdict(agent), (_AGENT_LEAVES_OUT - {"name"}) | models) for agent in spec.agents]
    return _fingerprint([_Part.of([spec.planning, spec.planning_model, tasks, agents])], digests)


def _fingerprint(parts: Sequence[_Part], inputs: Mapping[str, str]) -> Fingerprint:
    names = sorted({name for part in parts for name in part.names})
    return Fingerprint(
        _digest([part.digest for part in parts]), _digest([[name, inputs[name]] for name in names if name in inputs])
    )


def _task_part(spec: CrewSpec, index: int) -> _Part:
    task = spec.tasks[index]
    context = [spec.tasks[earlier].name for earlier in context_of(spec, index)]
    part = _Part.of(_without(asdict(task), _TASK_LEAVES_OUT) | {"context": context})
    return _Part(part.digest, part.names | set(inputs_of_condition(task.condition)))


def _agents_of(spec: CrewSpec, task: TaskSpec) -> list[AgentSpec]:
    """Return the task's agent, then all others that may have a part in it."""
    manager = [agent for agent in spec.agents if agent.name == spec.manager_agent]
    own = [agent for agent in spec.agents if agent.name == task.agent]
    if spec.process is Process.HIERARCHICAL:
        return [*manager, *own, *spec.agents]
    return [*own, *spec.agents] if any(agent.allow_delegation for agent in own) else own


def _crew_models(spec: CrewSpec) -> dict[str, str]:
    """Return who manages a crew, and the models that concern all its tasks."""
    hierarchical = spec.process is Process.HIERARCHICAL
    return {
        "manager": "agent" if hierarchical and spec.manager_agent else "",
        "manager_model": spec.manager_model if hierarchical else "",
    }


def _without(document: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


def _texts(document: Any) -> list[str]:
    match document:
        case str():
            return [document]
        case dict():
            return [text for value in document.values() for text in _texts(value)]
        case list() | tuple():
            return [text for value in document for text in _texts(value)]
        case _:
            return []


def _digest(document: Any) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()
