"""The loop of an agent takes the steps that CrewAI's own engine takes, whatever the steps come to."""

import contextlib
import random
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from crewai.agents.agent_executor import AgentExecutor
from crewai.tools.tool_failure import ToolExecutionFailedError
from crewai.utilities.agent_utils import MAX_REPEATED_TOOL_CALLS, check_repeated_tool_call

from coxswain.orchestrator.worker.link_pb2 import AgentTool, ToolAnswer
from services.orchestrator.worker.crew import agent_loop
from services.orchestrator.worker.crew.agent_loop import AgentLoop
from services.orchestrator.worker.crew.occurrences import Occurrences
from services.orchestrator.worker.crew.tools.host_tool import HostTool

METHODS = AgentExecutor.flow_definition().methods
ITERATIONS = 2


class Walk:
    """Stands for every step: notes it, and comes to one of the results that CrewAI declares for it."""

    def __init__(self, seed: int) -> None:
        self.taken: list[str] = []
        self._random = random.Random(seed)

    def step(self, name: str) -> Any:
        def take(*_: Any) -> str | None:
            self.taken.append(name)
            results = METHODS[name].emit or []
            return self._random.choice(results) if results else None

        return take

    def run(self, executor: AgentExecutor) -> tuple[list[str], type[Exception] | None]:
        try:
            executor.kickoff()
        except RecursionError as error:
            return self.taken, type(error)
        return self.taken, None


def by_crewai(seed: int) -> tuple[list[str], type[Exception] | None]:
    executor, walk = AgentExecutor(max_iter=ITERATIONS), Walk(seed)
    executor._methods.update({name: walk.step(name) for name in METHODS})  # type: ignore[misc]
    return walk.run(executor)


def by_us(seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], type[Exception] | None]:
    walk = Walk(seed)
    monkeypatch.setattr(agent_loop, "_STEPS", {name: walk.step(name) for name in METHODS})
    return walk.run(AgentLoop(max_iter=ITERATIONS))


def test_it_takes_the_steps_that_crewai_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(METHODS[name].emit for name, method in METHODS.items() if method.router)
    reached: set[str] = set()
    for seed in range(90):
        ours = by_us(seed, monkeypatch)
        assert ours == by_crewai(seed), f"seed {seed}"
        reached.update(ours[0])
    assert reached == set(METHODS)


ROUND = {
    "check_todos_available": "planning_disabled",
    "initialize_reasoning": "initialized",
    "execute_tool_action": "tool_completed",
    "execute_native_tool": "native_tool_completed",
    "check_todo_completion": "todo_not_satisfied",
    "check_native_todo_completion": "todo_not_satisfied",
    "increment_and_continue": "initialized",
}


def _depth() -> int:
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


@pytest.mark.parametrize(
    ("call", "asks", "answers", "goes_on"),
    [
        ("call_llm_native_tools", "native_tool_calls", "native_finished", "continue_reasoning_native"),
        ("route_by_answer_type", "execute_tool", "agent_finished", "continue_reasoning"),
    ],
    ids=["natively", "in words"],
)
def test_a_thousand_rounds_take_no_deeper_stack_than_one(
    monkeypatch: pytest.MonkeyPatch, call: str, asks: str, answers: str, goes_on: str
) -> None:
    rounds, depths = 1000, set[int]()
    taken: Counter[str] = Counter()

    def step(name: str) -> Any:
        def take(*_: Any) -> str | None:
            taken[name] += 1
            depths.add(_depth())
            if name == call:
                return answers if taken[call] > rounds else asks
            return {**ROUND, "check_max_iterations": goes_on, "call_llm_and_parse": "parsed"}.get(name)

        return take

    monkeypatch.setattr(agent_loop, "_STEPS", {name: step(name) for name in METHODS})
    AgentLoop(max_iter=rounds).kickoff()
    assert taken["increment_and_continue"] == rounds
    assert taken["finalize"]
    assert len(depths) == 1


@pytest.mark.parametrize("polled", [True, False])
def test_only_a_tool_that_is_polled_may_say_the_same_again_and_again(
    polled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = SimpleNamespace(call_tool=lambda _request: ToolAnswer(output="pending"))
    attempt: Any = SimpleNamespace(host=host, agent_role="", agent_text="", occurrences=Occurrences())
    described = AgentTool(
        id="1", model_name="status", description="Says it.", arguments_schema_json="{}", polled=polled
    )
    status = HostTool.build(described, attempt)
    loop = AgentLoop(original_tools=[status])

    def called(name: str, result: str) -> None:
        check_repeated_tool_call(loop._tool_call_counts, tool_name=name, tool_args={}, result=result)

    steps = {"status": lambda _: called("status", status.run()), "other": lambda _: called("other", "the same")}
    monkeypatch.setattr(agent_loop, "_STEPS", steps)
    for _ in range(MAX_REPEATED_TOOL_CALLS - 1):
        loop._run("status")
    with contextlib.nullcontext() if polled else pytest.raises(ToolExecutionFailedError):
        loop._run("status")
    # What other tools say again and again counts all the same, whatever is called in between.
    for _ in range(MAX_REPEATED_TOOL_CALLS - 1):
        loop._run("other")
    if polled:
        loop._run("status")
    with pytest.raises(ToolExecutionFailedError):
        loop._run("other")


@pytest.mark.parametrize("polled_first", [True, False])
def test_another_tool_of_the_same_step_is_counted_beside_one_that_is_polled(
    polled_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = SimpleNamespace(call_tool=lambda _request: ToolAnswer(output="the same"))
    attempt: Any = SimpleNamespace(host=host, agent_role="", agent_text="", occurrences=Occurrences())
    polled, other = (
        AgentTool(id=name, model_name=name, arguments_schema_json="{}", polled=name == "polled")
        for name in ("polled", "other")
    )
    tools = [HostTool.build(tool, attempt) for tool in (polled, other)]
    loop = AgentLoop(original_tools=tools)

    def both(_: Any) -> None:
        for tool in tools if polled_first else tools[::-1]:
            check_repeated_tool_call(loop._tool_call_counts, tool_name=tool.name, tool_args={}, result=tool.run())

    monkeypatch.setattr(agent_loop, "_STEPS", {"both": both})
    for _ in range(MAX_REPEATED_TOOL_CALLS - 1):
        loop._run("both")
    with pytest.raises(ToolExecutionFailedError, match="other"):
        loop._run("both")


async def test_it_refuses_to_run_within_an_event_loop() -> None:
    with pytest.raises(RuntimeError, match="event loop"):
        await AgentLoop(max_iter=1).kickoff_async()
