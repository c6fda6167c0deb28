"""What keeps agents from using the built-in tools that a crew names."""

from dataclasses import replace

from services.orchestrator.domain.crew import AgentSpec, CrewSpec, MemorySpec, TaskSpec, ToolSpec
from services.orchestrator.usecases.tool_faults import tool_faults


def test_searches_need_something_to_search() -> None:
    entities = ToolSpec("document_search", {"kind": "entity", "document_ids": ["a.pdf"]})
    agent = AgentSpec("a", "r", "g", tools=(ToolSpec("memory_search"), entities))
    crew = CrewSpec("c", (agent,), (TaskSpec("t", "d", "e", "a", tools=(ToolSpec("document_search"),)),))
    found = {fault.field: fault.description for fault in tool_faults(crew, {})}
    config = "spec.agents[0].tools[1].config"
    assert found.keys() == {"spec.agents[0].tools[0].name", f"{config}.memory_id", f"{config}.document_ids"}
    assert "spec.memory.enabled" in found["spec.agents[0].tools[0].name"]
    with_memory = replace(
        crew,
        memory=MemorySpec(enabled=True),
        agents=(replace(agent, tools=(ToolSpec("memory_search"), ToolSpec("document_search", {"memory_id": "m"}))),),
    )
    assert tool_faults(with_memory, {}) == []
