"""Which tools an agent may get for a task of a crew."""

from services.orchestrator.domain.crew import CrewSpec, ToolSpec


def tool_sets(spec: CrewSpec) -> list[tuple[ToolSpec, ...]]:
    """Return the tools of each agent, of each task alone, then of each task with its agent's; in the crew's order."""
    agents = {agent.name: agent.tools for agent in spec.agents}
    return [
        *agents.values(),
        *(task.tools for task in spec.tasks),
        *((*agents.get(task.agent, ()), *task.tools) for task in spec.tasks),
    ]
