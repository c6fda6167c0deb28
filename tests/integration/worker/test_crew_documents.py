"""What crews say in their documents, on real worker hosts with crew processes: limits."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from coxswain.orchestrator.v1 import crew_pb2, execution_pb2
from tests.integration.worker.installation import CAPABLE, Installation, install, is_kind, kinds
from tests.support.llm_script import Reply, ToolCall, Usage

S = execution_pb2
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """One worker host for all tests."""
    async with install(tmp_path_factory.mktemp("installation")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def lone(host: Installation) -> AsyncIterator[Installation]:
    """An upstream without rules, and one living host."""
    await host.hosts(1)
    yield host
    host.llm.clear_rules()
    host.llm.release()
    host.llm.clear_log()


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
