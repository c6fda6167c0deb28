"""The loop of an agent takes the steps that CrewAI's own engine takes, whatever the steps come to."""

import random
from typing import Any

import pytest
from crewai.agents.agent_executor import AgentExecutor

from services.orchestrator.worker.crew import agent_loop
from services.orchestrator.worker.crew.agent_loop import AgentLoop

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
