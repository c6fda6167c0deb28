"""Agents that start a task over: what they have been answered before is not asked for again."""

import json
from dataclasses import replace

import pytest

from services.orchestrator.domain.crew import AgentSpec, CrewSpec, Process, TaskSpec, ToolSpec
from services.orchestrator.worker.host.crew_process import ForkServer
from services.orchestrator.worker.link.errors import TaskError
from tests.unit.worker.crew.scripted_host import Json, ScriptedHost, answer, said, segment, text_of, tool_call

pytestmark = pytest.mark.asyncio(loop_scope="session")

READ = TaskSpec("read", "Read.", "Facts", "reader")
CALCULATING = AgentSpec("reader", "Reader", "Read", model="m", tools=(ToolSpec("calculator"),))


def crew(task: TaskSpec, agent: AgentSpec = CALCULATING) -> CrewSpec:
    return CrewSpec("crew", (agent,), (task,), model="m")


def numbered(host: ScriptedHost) -> list[tuple[str, int]]:
    """How each model call began and which of its kind it was."""
    calls = host.calls("complete")
    return [
        (text_of(request["messages"][-1])[-12:], call.occurrence)
        for request, call in zip(host.requests, calls, strict=True)
    ]


def calculated(request: Json) -> list[str]:
    return [text_of(message) for message in request["messages"] if message["role"] == "tool"]


async def test_a_guardrails_retry_gets_the_results_of_the_tools_it_has_used(fork_server: ForkServer) -> None:
    verdicts = iter([{"valid": False, "feedback": "Too short."}, {"valid": True, "feedback": None}])

    def reply(request: Json) -> Json:
        if "Guardrail Agent" in said(request):
            return answer(json.dumps(next(verdicts)))
        return answer("It is 3.33.") if calculated(request) else tool_call("calculator", {"expression": "10/3"})

    host = ScriptedHost(reply)
    spec = crew(replace(READ, guardrails=("Long.",)))
    async with segment(fork_server, host, spec) as run:
        await run.task(0)
    assert len(host.calls("begin_tool")) == 2
    assert len({call.key for call in host.calls("begin_tool")}) == 1
    assert len(host.calls("end_tool")) == 1, "the tool ran once"
    assert sum("Too short." in said(request) for request in host.requests) == 2


async def test_the_same_tool_twice_on_purpose_is_two_calls(fork_server: ForkServer) -> None:
    def reply(request: Json) -> Json:
        done = len(calculated(request))
        return answer("Twice.") if done == 2 else tool_call("calculator", {"expression": "1+1"}, f"call-{done}")

    host = ScriptedHost(reply)
    async with segment(fork_server, host, crew(READ)) as run:
        assert (await run.task(0)).text == "Twice."
    assert [call.key.rpartition(".")[2] for call in host.calls("end_tool")] == ["0", "1"]


@pytest.mark.parametrize("process", list(Process))
async def test_an_agent_that_starts_over_asks_what_it_has_asked_before(
    fork_server: ForkServer, process: Process
) -> None:
    broken = iter([True])

    def reply(request: Json) -> Json:
        if not calculated(request):
            return tool_call("calculator", {"expression": "10/3"})
        if next(broken, False):
            raise TaskError("UPSTREAM_BAD_RESPONSE", "something that CrewAI tries again", fatal=False)
        return answer("It is 3.33.")

    host = ScriptedHost(reply)
    spec = replace(crew(READ), process=process, manager_model="m")
    async with segment(fork_server, host, spec) as run:
        assert (await run.task(0)).text == "It is 3.33."
    first, failed, again, last = numbered(host)
    assert first == again
    assert failed == last
    assert len(host.calls("end_tool")) == 1


async def test_an_answer_that_was_of_no_use_is_not_given_again(fork_server: ForkServer) -> None:
    replies = iter(["no JSON", "none either", json.dumps({"title": "Ships"})])
    host = ScriptedHost(lambda _: answer(next(replies)))
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    async with segment(
        fork_server, host, crew(replace(READ, output_schema=schema), replace(CALCULATING, tools=()))
    ) as run:
        assert (await run.task(0)).structured == {"title": "Ships"}
    asked = [
        (said(request), call.occurrence) for request, call in zip(host.requests, host.calls("complete"), strict=True)
    ]
    assert len(set(asked)) == 3
