"""Which tasks of a crew may start, and what they get. Pure: rows in, places out."""

from collections.abc import Sequence
from dataclasses import replace

from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.execution import TaskState


def startable(spec: CrewSpec, states: Sequence[TaskState]) -> list[int]:
    """Return the places of tasks that may start now.

    A synchronous task waits for all before it, asynchronous ones included. An asynchronous one waits for the
    synchronous ones before it and for its explicit context.
    """
    found: list[int] = []
    unfinished = False
    done = {task.name for task, state in zip(spec.tasks, states, strict=True) if state.done}
    for index, (task, state) in enumerate(zip(spec.tasks, states, strict=True)):
        if state.done:
            continue
        if not task.async_execution:
            if state is TaskState.PENDING and not unfinished:
                found.append(index)
            break
        if state is TaskState.PENDING and set(task.context or ()) <= done:
            found.append(index)
        unfinished = True
    return found


def context_of(spec: CrewSpec, index: int) -> list[int]:
    """Return the places of the tasks whose results a task gets, in the crew's order."""
    task = spec.tasks[index]
    if task.context is not None:
        wanted = set(task.context)
        return [earlier for earlier in range(index) if spec.tasks[earlier].name in wanted]
    return [] if task.async_execution else list(range(index))


def fill_in_models(spec: CrewSpec, *, default: str, override: str = "") -> CrewSpec:
    """Return the crew with the name of a model wherever one is called; `override` replaces all of them."""
    crew = override or spec.model or default
    return replace(
        spec,
        model=crew,
        manager_model=override or spec.manager_model or crew,
        planning_model=override or spec.planning_model or crew,
        memory=replace(spec.memory, model=(override or spec.memory.model or crew) if spec.memory.asks_model else ""),
        agents=tuple(
            replace(
                agent,
                model=override or agent.model or crew,
                function_calling_model=(override or agent.function_calling_model)
                if agent.function_calling_model
                else "",
            )
            for agent in spec.agents
        ),
    )


def models_of(spec: CrewSpec) -> set[str]:
    """Return the chat models a crew, its models filled in, may call."""
    called = {spec.model, spec.manager_model, spec.planning_model, spec.memory.model}
    for agent in spec.agents:
        called |= {agent.model, agent.function_calling_model}
    return called - {""}
