"""What crews say in their documents, on real worker hosts with crew processes: limits, conditions, checks."""

from typing import Any

import pytest

from coxswain.orchestrator.v1 import crew_pb2, execution_pb2
from tests.integration.worker.installation import CAPABLE, Installation, is_kind, kinds
from tests.support.llm_script import Fault, Reply, ToolCall, Usage

S = execution_pb2
pytestmark = pytest.mark.asyncio(loop_scope="module")


def chain(count: int, **fields: Any) -> crew_pb2.CrewSpec:
    """A crew of `count` tasks of one model call each."""
    return crew_pb2.CrewSpec(
        name="chain",
        agents=[crew_pb2.AgentSpec(name="clerk", role="Clerk", goal="Reckon")],
        tasks=[
            crew_pb2.TaskSpec(
                name=f"step{number}", description=f"Step {number}.", expected_output="Words", agent="clerk"
            )
            for number in range(count)
        ],
        model=CAPABLE,
        **fields,
    )


async def test_an_execution_ends_at_its_limit_and_goes_on_with_a_higher_one(lone: Installation) -> None:
    lone.llm.on(Reply(text="Done.", usage=Usage(prompt_tokens=100, completion_tokens=20)), route="chat")
    spec = chain(4)
    execution = await lone.start(spec, limits=crew_pb2.ExecutionLimits(max_tokens=240))
    ended = await lone.finished(execution.id)
    assert (ended.state, ended.error.reason) == (S.EXECUTION_STATE_FAILED, "EXECUTION_LIMIT_REACHED")
    assert ended.error.task_name == "step2"
    assert "240 tokens that limits.max_tokens allows" in ended.error.message
    assert len(lone.llm.calls_where(route="chat")) == 2
    resume = S.ResumeExecutionRequest(id=execution.id)
    again = await lone.finished((await lone.executions().ResumeExecution(resume)).execution.id)
    assert again.error.reason == "EXECUTION_LIMIT_REACHED"
    assert again.usage.llm_calls == 0
    resume = S.ResumeExecutionRequest(id=again.id, limits=crew_pb2.ExecutionLimits(max_tokens=480))
    more = await lone.finished((await lone.executions().ResumeExecution(resume)).execution.id)
    assert more.state == S.EXECUTION_STATE_SUCCEEDED
    assert more.limits == crew_pb2.ExecutionLimits(max_tokens=480)
    assert len(lone.llm.calls_where(route="chat")) == 4


async def test_limits_hold_over_a_takeover(lone: Installation) -> None:
    lone.llm.on(Reply(text="Done."), route="chat", times=1)
    lone.llm.on(Reply(text="Done.", hang=True), route="chat", times=1)
    lone.llm.on(Reply(text="Done."), route="chat")
    execution = await lone.start(chain(4, limits=crew_pb2.ExecutionLimits(max_model_calls=3)))
    await lone.watch(execution.id, is_kind("llm_call_started", "step1"))
    await lone.llm.wait_for_calls(1, hanging=True)
    holder = await lone.holder()
    holder.kill()
    await holder.ended()
    lone.llm.release()
    await lone.hosts(1)
    events = await lone.watch(execution.id)
    assert events[-1].execution_failed.error.reason == "EXECUTION_LIMIT_REACHED"
    assert kinds(events).count("llm_call_completed") == 3
    ended = await lone.get(execution.id)
    assert (ended.usage.llm_calls, ended.limits.max_model_calls) == (3, 3)


async def test_tool_calls_are_counted_and_limited(lone: Installation) -> None:
    for number in range(5):
        call = ToolCall(name="calculator", arguments={"expression": f"{number} + 1"})
        lone.llm.on(Reply(tool_calls=[call]), route="chat", times=1)
    spec = chain(1, limits=crew_pb2.ExecutionLimits(max_tool_calls=3))
    spec.agents[0].tools.add(name="calculator")
    # A start can only lower what the crew allows.
    execution = await lone.start(spec, limits=crew_pb2.ExecutionLimits(max_tool_calls=10, max_model_calls=50))
    assert execution.limits == crew_pb2.ExecutionLimits(max_tool_calls=3, max_model_calls=50)
    ended = await lone.finished(execution.id)
    assert ended.error.reason == "EXECUTION_LIMIT_REACHED"
    assert "limits.max_tool_calls" in ended.error.message
    assert ended.usage.tool_calls == 3
    (task,) = await lone.tasks(execution.id)
    assert task.usage.tool_calls == 3


def reviewed(**fields: Any) -> crew_pb2.CrewSpec:
    """A crew whose second task is done only for drafts that are not good, and whose third takes what there is."""
    schema: dict[str, Any] = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
    spec = chain(3, **fields)
    spec.tasks[0].output_schema.update(schema)
    spec.tasks[1].condition = "tasks.step0.structured.score < int(inputs.enough)"
    return spec


@pytest.mark.parametrize(("score", "done"), [(9, 2), (1, 3)])
async def test_a_task_is_skipped_when_its_condition_is_false(lone: Installation, score: int, done: int) -> None:
    lone.llm.on(Reply(text=f'{{"score": {score}}}'), route="chat", times=1)
    lone.llm.on(Reply(text="Done."), route="chat")
    execution = await lone.start(reviewed(), inputs={"enough": "5"})
    events = await lone.watch(execution.id)
    tasks = await lone.tasks(execution.id)
    skipped = [event for event in events if event.WhichOneof("event") == "task_skipped"]
    states = [S.TaskState.Name(task.state).removeprefix("TASK_STATE_") for task in tasks]
    assert states == ["SUCCEEDED", "SKIPPED" if done == 2 else "SUCCEEDED", "SUCCEEDED"]
    assert [event.task_skipped.condition for event in skipped] == (
        ["tasks.step0.structured.score < int(inputs.enough)"] if done == 2 else []
    )
    assert len(lone.llm.calls_where(route="chat")) == done
    assert (await lone.get(execution.id)).result.text == "Done."


async def test_skipped_tasks_stay_skipped_over_a_takeover_and_a_resumption(lone: Installation) -> None:
    lone.llm.on(Reply(text='{"score": 9}'), route="chat", times=1)
    lone.llm.on(Reply(text="Done.", hang=True), route="chat", times=1)
    lone.llm.on(Reply(fault=Fault(status=400)), route="chat", times=1)
    lone.llm.on(Reply(text="Done."), route="chat")
    spec = reviewed()
    # The last task is skipped as well: the result is that of the one before.
    spec.tasks.add(
        name="step3", description="Never.", expected_output="-", agent="clerk", condition="tasks.step1.text != ''"
    )
    execution = await lone.start(spec, inputs={"enough": "5"})
    await lone.watch(execution.id, is_kind("llm_call_started", "step2"))
    await lone.llm.wait_for_calls(1, hanging=True)
    holder = await lone.holder()
    holder.kill()
    await holder.ended()
    lone.llm.release()
    await lone.hosts(1)
    events = await lone.watch(execution.id)
    assert events[-1].WhichOneof("event") == "execution_failed"
    assert kinds(events).count("task_skipped") == 1
    resume = S.ResumeExecutionRequest(id=execution.id)
    ended = await lone.finished((await lone.executions().ResumeExecution(resume)).execution.id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, "Done.")
    states = [task.state for task in await lone.tasks(ended.id)]
    assert states == [S.TASK_STATE_SUCCEEDED, S.TASK_STATE_SKIPPED, S.TASK_STATE_SUCCEEDED, S.TASK_STATE_SKIPPED]


async def test_a_condition_that_has_no_value_fails_its_task(lone: Installation) -> None:
    lone.llm.on(Reply(text="Done."), route="chat")
    spec = chain(2)
    spec.tasks[1].condition = "tasks.step0.structured.score > 1"
    ended = await lone.finished((await lone.start(spec)).id)
    assert (ended.state, ended.error.reason, ended.error.task_name) == (
        S.EXECUTION_STATE_FAILED,
        "TASK_FAILED",
        "step1",
    )
    assert "tasks.step0.structured.score > 1" in ended.error.message


async def test_a_refused_result_is_an_event_and_is_tried_again(lone: Installation) -> None:
    lone.llm.on(Reply(text="One two three four five."), route="chat", times=1)
    lone.llm.on(Reply(text="One two."), route="chat")
    spec = chain(1)
    spec.agents[0].checks.add(words=crew_pb2.OutputLength(max=3))
    execution = await lone.start(spec)
    events = await lone.watch(execution.id)
    (refusal,) = [event for event in events if event.WhichOneof("event") == "guardrail_refused"]
    assert list(refusal.guardrail_refused.fields) == ["spec.agents[0].checks[0]"]
    assert "has 5 words and may have at most 3" in refusal.guardrail_refused.message
    assert refusal.task_name == "step0"
    assert (await lone.get(execution.id)).result.text == "One two."
