"""Tasks start in the order CrewAI would start them, with the results it would give them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.domain.crew import AgentSpec, CrewSpec, TaskSpec
from services.orchestrator.domain.execution import TaskState
from services.orchestrator.domain.task_order import context_of, fill_in_models, models_of, startable

P, R, S, W = TaskState.PENDING, TaskState.RUNNING, TaskState.SUCCEEDED, TaskState.WAITING_FOR_ANSWER


def crew(*tasks: tuple[bool, tuple[str, ...] | None]) -> CrewSpec:
    """A crew of tasks `t0`, `t1`... each asynchronous or not, with an explicit context or none."""
    return CrewSpec(
        "c",
        (AgentSpec("a", "A", "g"),),
        tuple(
            TaskSpec(f"t{index}", "d", "e", "a", async_execution=asynchronous, context=context)
            for index, (asynchronous, context) in enumerate(tasks)
        ),
    )


SYNC, ASYNC = (False, None), (True, None)


@pytest.mark.parametrize(
    ("tasks", "states", "expected"),
    [
        ([SYNC, SYNC], [P, P], [0]),
        ([SYNC, SYNC], [R, P], []),
        ([SYNC, SYNC], [S, P], [1]),
        ([SYNC, SYNC], [S, S], []),
        ([ASYNC, ASYNC, SYNC], [P, P, P], [0, 1]),
        ([ASYNC, ASYNC, SYNC], [S, R, P], []),
        ([ASYNC, ASYNC, SYNC], [S, S, P], [2]),
        # A synchronous task holds up all that come after it.
        ([SYNC, ASYNC, SYNC], [R, P, P], []),
        ([SYNC, ASYNC, SYNC], [S, P, P], [1]),
        ([SYNC, ASYNC, SYNC], [W, P, P], []),
        # What waits for a person holds up what would have needed it.
        ([ASYNC, SYNC], [W, P], []),
        ([ASYNC, ASYNC, SYNC], [W, P, P], [1]),
        ([SYNC, (True, ("t0",)), SYNC], [S, P, P], [1]),
    ],
)
def test_a_task_starts_when_what_it_waits_for_is_done(
    tasks: list[tuple[bool, tuple[str, ...] | None]], states: list[TaskState], expected: list[int]
) -> None:
    assert startable(crew(*tasks), states) == expected


@pytest.mark.parametrize(
    ("tasks", "index", "expected"),
    [
        ([SYNC, SYNC, SYNC], 2, [0, 1]),
        ([SYNC, ASYNC], 1, []),
        ([SYNC, ASYNC, SYNC], 2, [0, 1]),
        ([SYNC, SYNC, (False, ("t0",))], 2, [0]),
        ([SYNC, (False, ())], 1, []),
        ([SYNC, SYNC, (True, ("t1", "t0"))], 2, [0, 1]),
    ],
)
def test_a_task_gets_the_results_crewai_would_give_it(
    tasks: list[tuple[bool, tuple[str, ...] | None]], index: int, expected: list[int]
) -> None:
    assert context_of(crew(*tasks), index) == expected


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.randoms())
def test_every_task_runs_once_and_never_before_what_it_may_read(kinds: list[bool], random: object) -> None:
    spec = crew(*((kind, None) for kind in kinds))
    states = [P] * len(kinds)
    order: list[int] = []
    running: list[int] = []
    while True:
        for index in startable(spec, states):
            assert all(states[earlier] is S for earlier in context_of(spec, index))
            states[index] = R
            running.append(index)
            order.append(index)
        if not running:
            break
        done = running.pop(random.randrange(len(running)))  # type: ignore[attr-defined]
        states[done] = S
    assert sorted(order) == list(range(len(kinds)))
    synchronous = [index for index in order if not kinds[index]]
    assert synchronous == sorted(synchronous)


def test_every_part_of_a_crew_gets_a_model() -> None:
    agents = (
        AgentSpec("own", "A", "g", model="x", function_calling_model="y"),
        AgentSpec("none", "B", "g"),
    )
    spec = replace(crew(SYNC), agents=agents)
    filled = fill_in_models(spec, default="d")
    assert (filled.model, filled.manager_model, filled.planning_model) == ("d", "d", "d")
    assert [(agent.model, agent.function_calling_model) for agent in filled.agents] == [("x", "y"), ("d", "")]
    assert models_of(filled) == {"d", "x", "y"}
    own = fill_in_models(replace(spec, model="c", manager_model="m"), default="d")
    assert (own.model, own.manager_model, own.planning_model, own.agents[1].model) == ("c", "m", "c", "c")
    assert models_of(fill_in_models(spec, default="d", override="o")) == {"o"}
