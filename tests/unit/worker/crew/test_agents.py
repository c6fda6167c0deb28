"""What an agent of a crew can say of itself: how it samples, the date it is told, its plans."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.orchestrator.domain.crew import AgentSpec, CrewSpec, TaskSpec
from services.orchestrator.worker.crew.agent_date import date_for
from services.orchestrator.worker.host.crew_process import ForkServer
from tests.unit.worker.crew.scripted_host import PLAIN, Json, ScriptedHost, answer, said, segment, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

CLERK = AgentSpec("clerk", "Clerk", "Reckon", "You have reckoned everything.", model="m")
SUM = TaskSpec("sum", "Add it up.", "A number", "clerk")
MIDNIGHT = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)


def crew(agent: AgentSpec, task: TaskSpec = SUM) -> CrewSpec:
    return CrewSpec("c", (agent,), (task,), model="m", manager_model="m", planning_model="m")


async def test_answers_have_the_length_and_the_thought_that_the_agent_asks_for(fork_server: ForkServer) -> None:
    host = ScriptedHost()
    async with segment(fork_server, host, crew(replace(CLERK, max_tokens=77, reasoning_effort="high"))) as run:
        await run.task(0)
    (request,) = host.requests
    assert (request["max_output_tokens"], request["reasoning_effort"]) == (77, "high")
    assert "temperature" not in request


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, ""),
        ({"inject_date": True}, "2026-03-01"),
        ({"inject_date": True, "date_time_zone": "Europe/Zurich"}, "2026-03-02"),
        ({"inject_date": True, "date_format": "%A, %d %B %Y, 100%%"}, "Sunday, 01 March 2026, 100%"),
        ({"date_format": "%Y"}, ""),
    ],
)
async def test_a_date_is_that_of_the_executions_start(fields: Json, told: str) -> None:
    assert date_for(replace(CLERK, **fields), MIDNIGHT) == told


async def test_the_date_is_told_where_crewai_tells_it_and_stays_the_same(fork_server: ForkServer) -> None:
    host = ScriptedHost()
    for _ in range(2):
        async with segment(fork_server, host, crew(replace(CLERK, inject_date=True)), started_at=MIDNIGHT) as run:
            await run.task(0)
    first, second = host.requests
    assert first == second
    assert text_of(first["messages"][0]).endswith("\n\nCurrent Date: 2026-03-01")


@pytest.mark.parametrize("refusals", [0, 2])
async def test_an_agent_that_plans_asks_once_and_does_the_task_by_its_plan(
    fork_server: ForkServer, refusals: int
) -> None:
    left = [refusals]

    def reply(request: Json) -> Json:
        if "Guardrail Agent" in said(request):
            left[0] -= 1
            return answer('{"valid": %s, "feedback": "Once more."}' % ("false" if left[0] >= 0 else "true"))
        if "Planning:" in said(request):
            return answer("42")
        return answer("1. Take all numbers.\n2. Add them.\n\nREADY: I am ready to execute the task.")

    host = ScriptedHost(reply)
    task = replace(SUM, guardrails=("It is a number.",))
    async with segment(fork_server, host, crew(replace(CLERK, planning=True), task)) as run:
        assert (await run.task(0)).text == "42"
    plan, *work = [request for request in host.requests if "Guardrail Agent" not in said(request)]
    assert "Planning:" not in said(plan)
    assert len(work) == 1 + refusals
    assert all(said(request).count("Planning:\n1. Take all numbers.") == 1 for request in work)


async def test_an_agent_plans_with_a_model_that_has_no_tool_calls(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda request: answer("Add them. READY: I am ready to execute the task."))
    async with segment(fork_server, host, crew(replace(CLERK, planning=True)), capabilities=PLAIN) as run:
        await run.task(0)
    assert [len(request.get("tools", ())) for request in host.requests] == [0, 0]
