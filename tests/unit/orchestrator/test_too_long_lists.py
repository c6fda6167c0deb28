"""Whatever looks for the faults of a request looks at no more than its rules allow."""

import pytest

from coxswain.orchestrator.v1 import crew_pb2, execution_pb2, schedule_pb2, tool_source_pb2
from services.orchestrator.domain.tool_source import HttpApi
from services.orchestrator.messages import crews, schedules, tool_sources

OPERATION = tool_source_pb2.HttpOperation(name="look", method="GET", path="/{id}")


def test_operations_of_a_source() -> None:
    api = tool_source_pb2.HttpApi(base_url="https://example.com", operations=[OPERATION] * 10_000)
    spec, broken = tool_sources.checked_spec(tool_source_pb2.ToolSourceSpec(name="shop", http=api))
    assert isinstance(spec.endpoint, HttpApi)
    assert len(spec.endpoint.operations) == 512
    assert "spec.http.operations" in {violation.field for violation in broken}


@pytest.mark.parametrize("many", [1_000, 10_000])
def test_lists_of_a_crew_at_every_depth(many: int) -> None:
    agent = crew_pb2.AgentSpec(name="a", tools=[crew_pb2.ToolSpec(name="read")] * many)
    spec, broken = crews.checked_spec(crew_pb2.CrewSpec(agents=[agent, *[crew_pb2.AgentSpec(name="b")] * many]))
    assert len(spec.agents) < 1_000
    assert len(spec.agents[0].tools) < 1_000
    assert {"spec.agents", "spec.agents[0].tools"} <= {violation.field for violation in broken}


def test_texts_of_a_crew_at_every_depth() -> None:
    long = "x" * 100_000
    agent = crew_pb2.AgentSpec(name=long, tools=[crew_pb2.ToolSpec(name=long)])
    task = crew_pb2.TaskSpec(name=long, agent=long, guardrails=["", long])
    tasks = [task, *[crew_pb2.TaskSpec(name="b")] * 1_000, task]
    spec, broken = crews.checked_spec(crew_pb2.CrewSpec(name=long, agents=[agent], tasks=tasks))
    assert [len(text) for text in (spec.name, spec.agents[0].name, spec.tasks[0].name)] == [256, 128, 128]
    assert len(spec.agents[0].tools[0].name) < 1_000
    assert [len(text) for text in spec.tasks[0].guardrails] == [0, 16_384]
    assert {"spec.name", "spec.agents[0].tools[0].name", "spec.tasks"} <= {violation.field for violation in broken}


def test_maps_of_a_schedule() -> None:
    labels = {f"key{index}": "value" * 1_000 for index in range(10_000)}
    start = execution_pb2.StartExecutionRequest(labels=labels)
    plan, broken = schedules.checked_plan(schedule_pb2.Schedule(name="daily", start=start))
    assert len(plan.start.labels) < 1_000
    assert max(map(len, plan.start.labels.values())) == 1_024
    assert "schedule.start.labels" in {violation.field for violation in broken}
