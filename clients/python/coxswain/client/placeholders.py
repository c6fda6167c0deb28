"""The inputs that the texts of a crew use."""

import re
from collections.abc import Iterable, Iterator

from coxswain.orchestrator.v1.crew_pb2 import CrewSpec

# As the orchestrator reads them: any other brace is text.
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_\-]*)\}")


def inputs_asked_for(spec: CrewSpec) -> list[str]:
    """The names of all `{placeholders}` of a crew, in the order they come."""
    return list(dict.fromkeys(name for text in _texts(spec) for name in _PLACEHOLDER.findall(text)))


def unused_inputs(spec: CrewSpec, given: Iterable[str]) -> list[str]:
    """The inputs among those given that no text of the crew uses."""
    asked_for = inputs_asked_for(spec)
    return [name for name in given if name not in asked_for]


def _texts(spec: CrewSpec) -> Iterator[str]:
    for agent in spec.agents:
        yield from (agent.role, agent.goal, agent.backstory)
    for task in spec.tasks:
        yield from (task.description, task.expected_output)
