"""What results have to pass: checks, then what a model judges; and whether a task is done at all."""

import json
from dataclasses import replace
from typing import Any

import pytest

from coxswain.orchestrator.worker.link_pb2 import EarlierTask, EvaluateCondition
from services.orchestrator.domain.crew import (
    AgentSpec,
    CrewSpec,
    OutputCheck,
    OutputLength,
    Process,
    TaskSpec,
    ToolSpec,
)
from services.orchestrator.domain.execution import TaskOutput
from services.orchestrator.messages.executions import output_to_proto
from services.orchestrator.worker.host.crew_process import ForkServer
from services.orchestrator.worker.link.errors import TaskError
from tests.unit.worker.crew.scripted_host import Json, ScriptedHost, answer, said, segment

pytestmark = pytest.mark.asyncio(loop_scope="session")

WRITER = AgentSpec("writer", "Writer", "Write well", "You have written everything.", model="m")
WRITE = TaskSpec("write", "Write.", "Some words", "writer")
BRIEF = OutputCheck(words=OutputLength(max=3))
NO_CATS = OutputCheck(forbidden_words=("cats",), message="Nothing about cats.")


def crew(task: TaskSpec, agent: AgentSpec = WRITER, **fields: Any) -> CrewSpec:
    return CrewSpec("c", (agent,), (task,), model="m", manager_model="m", planning_model="m", **fields)


def judged(request: Json) -> bool:
    return "Guardrail Agent" in said(request)


async def test_checks_come_before_judges_and_tell_all_that_is_wrong(fork_server: ForkServer) -> None:
    verdicts = iter(["Too dry.", "", ""])

    def reply(request: Json) -> Json:
        if judged(request):
            feedback = next(verdicts)
            return answer(json.dumps({"valid": not feedback, "feedback": feedback or None}))
        told = said(request)
        if "Too dry." in told:
            return answer("Purring ships!")
        return answer("Ships sail." if "Nothing about cats." in told else "A lot about cats here.")

    host = ScriptedHost(reply)
    task = replace(WRITE, checks=(NO_CATS,), guardrails=("It is fun.",))
    async with segment(fork_server, host, crew(task, replace(WRITER, checks=(BRIEF,)))) as run:
        assert (await run.task(0)).text == "Purring ships!"
    second = [request for request in host.requests if not judged(request)][1]
    assert "it has 5 words and may have at most 3\nNothing about cats." in said(second)
    refusals = host.calls("guardrail_refused")
    assert [list(refusal.fields) for refusal in refusals] == [
        ["spec.agents[0].checks[0]", "spec.tasks[0].checks[0]"],
        ["spec.tasks[0].guardrails[0]"],
    ]
    assert refusals[1].message == "Too dry."
    assert len([request for request in host.requests if judged(request)]) == 2


async def test_a_result_changed_for_a_judge_is_checked_again(fork_server: ForkServer) -> None:
    verdicts = iter([False, True])

    def reply(request: Json) -> Json:
        if judged(request):
            return answer(json.dumps({"valid": next(verdicts), "feedback": "Say more."}))
        told = said(request)
        return answer("It is all about cats." if "Say more." in told else "Ships." if "cats" not in told else "Sails.")

    host = ScriptedHost(reply)
    async with segment(fork_server, host, crew(replace(WRITE, checks=(NO_CATS,), guardrails=("Good.",)))) as run:
        assert (await run.task(0)).text == "Sails."


async def test_retries_are_bounded_and_the_error_names_what_is_wrong(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda request: answer("All about cats."))
    task = replace(WRITE, checks=(NO_CATS,), guardrail_max_retries=2)
    async with segment(fork_server, host, crew(task)) as run:
        with pytest.raises(TaskError, match="Nothing about cats"):
            await run.task(0)
    assert len(host.requests) == 3


@pytest.mark.parametrize("first", ['{"score": 8}', "Eight, I think."])
async def test_the_result_of_an_agent_with_tools_is_an_object_before_it_is_judged(
    fork_server: ForkServer, first: str
) -> None:
    def reply(request: Json) -> Json:
        if judged(request):
            return answer(json.dumps({"valid": True, "feedback": None}))
        return answer(first if request.get("tools") else '{"score": 8}')

    host = ScriptedHost(reply)
    schema = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
    checks = (OutputCheck(expression="output.structured.score > 5"),)
    task = replace(WRITE, output_schema=schema, checks=checks, guardrails=("Good.",))
    agent = replace(WRITER, tools=(ToolSpec("calculator", {}),))
    async with segment(fork_server, host, crew(task, agent)) as run:
        assert (await run.task(0)).structured == {"score": 8}
    assert len([request for request in host.requests if judged(request)]) == 1


async def test_an_expression_sees_the_structured_result(fork_server: ForkServer) -> None:
    scores = iter([3, 8])
    host = ScriptedHost(lambda request: answer(json.dumps({"score": next(scores)})))
    schema = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
    check = OutputCheck(expression="output.structured.score > 5 && output.text.contains('score')")
    async with segment(fork_server, host, crew(replace(WRITE, output_schema=schema, checks=(check,)))) as run:
        assert (await run.task(0)).structured == {"score": 8}


async def test_the_managers_model_judges_a_task_without_an_agent(fork_server: ForkServer) -> None:
    def reply(request: Json) -> Json:
        if judged(request):
            return answer(json.dumps({"valid": True, "feedback": None}))
        return answer("Done.")

    host = ScriptedHost(reply)
    task = replace(WRITE, agent="", guardrails=("Good.",), checks=(BRIEF,))
    async with segment(fork_server, host, crew(task, process=Process.HIERARCHICAL)) as run:
        assert (await run.task(0)).text == "Done."
    assert len([request for request in host.requests if judged(request)]) == 1


async def test_a_condition_is_evaluated_over_inputs_and_earlier_tasks(fork_server: ForkServer) -> None:
    condition = "inputs.topic == 'ships' && tasks.draft.structured.score < 7 && tasks['side'].skipped"
    spec = crew(replace(WRITE, condition=condition))
    bad = crew(replace(WRITE, condition="tasks.draft.structured.missing"))

    def ended(score: int) -> EvaluateCondition:
        draft = output_to_proto(TaskOutput("t", {"score": score}))
        return EvaluateCondition(tasks=[EarlierTask(name="draft", output=draft), EarlierTask(name="side")])

    async with segment(fork_server, ScriptedHost(), spec, inputs={"topic": "ships"}) as run:
        assert await run.process.condition_holds(0, ended(3)) is True
        assert await run.process.condition_holds(0, ended(9)) is False
    async with segment(fork_server, ScriptedHost(), bad) as run:
        with pytest.raises(TaskError, match=r"cannot be evaluated: .*missing") as failed:
            await run.process.condition_holds(0, ended(3))
    assert failed.value.reason == "TASK_FAILED"
