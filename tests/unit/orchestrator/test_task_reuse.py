"""Which tasks are copied: what has not changed, and gets nothing that has."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.domain.continuation import TaskReuse
from services.orchestrator.domain.crew import (
    AgentSpec,
    ApprovalSpec,
    CrewSpec,
    KnowledgeMemory,
    KnowledgeSpec,
    MemoryKind,
    MemorySpec,
    OutputCheck,
    Process,
    TaskSpec,
    ToolSpec,
)
from services.orchestrator.domain.execution import ExecutionError, TaskRun, TaskState, Usage
from services.orchestrator.domain.task_order import context_of, fill_in_models
from services.orchestrator.task_fingerprints import plan_fingerprint, task_fingerprints
from services.orchestrator.usecases.task_reuse import Earlier, JournalReuse, decide_journals, decide_reuse

R = TaskReuse
AGENTS = (AgentSpec("reader", "Reader of {topic}", "Read"), AgentSpec("editor", "Editor", "Edit"))
TASKS = (
    TaskSpec("read", "Read {text}", "Notes", "reader"),
    TaskSpec("edit", "Edit", "A brief", "editor"),
    TaskSpec("check", "Check", "Yes or no", "reader", context=("edit",)),
    TaskSpec("name", "Find a name", "A name", "editor", context=()),
)
CREW = CrewSpec("brief", AGENTS, TASKS)
INPUTS = {"topic": "ships", "text": "A text.", "unused": 1}


def run(index: int, name: str, state: TaskState = TaskState.SUCCEEDED, reason: str = "") -> TaskRun:
    error = ExecutionError(reason, "no", name) if reason else None
    return TaskRun("e", index, name, state, attempt=1, usage=Usage(), copied=False, error=error)


def decide(
    after: CrewSpec,
    *,
    before: CrewSpec = CREW,
    inputs: dict[str, Any] | None = None,
    runs: list[TaskRun] | None = None,
    from_task: str = "",
    models: tuple[str, str] = ("", ""),
    declined: tuple[int, ...] = (),
) -> tuple[list[TaskReuse], JournalReuse]:
    old, new = (
        fill_in_models(spec, default="m", override=model) for spec, model in zip((before, after), models, strict=True)
    )
    runs = runs or [run(index, task.name) for index, task in enumerate(before.tasks)]
    fingerprints = task_fingerprints(old, INPUTS)
    earlier = {made.name: Earlier(made, fingerprints[made.task_index]) for made in runs}
    new_fingerprints = task_fingerprints(new, {**INPUTS, **(inputs or {})})
    reuse = decide_reuse(new, new_fingerprints, earlier, from_task)
    return reuse, decide_journals(new, new_fingerprints, earlier, reuse, declined)


def with_task(index: int, **fields: Any) -> CrewSpec:
    return replace(CREW, tasks=(*TASKS[:index], replace(TASKS[index], **fields), *TASKS[index + 1 :]))


def with_agent(index: int, **fields: Any) -> CrewSpec:
    return replace(CREW, agents=(*AGENTS[:index], replace(AGENTS[index], **fields), *AGENTS[index + 1 :]))


def test_what_has_not_changed_is_copied() -> None:
    assert decide(CREW) == ([R.COPIED] * 4, JournalReuse({}, {}, {}))
    same = replace(CREW, name="other", description="For people", agents=AGENTS[::-1])
    assert decide(same)[0] == [R.COPIED] * 4
    assert decide(CREW, inputs={"unused": 2, "more": 3})[0] == [R.COPIED] * 4


def test_a_task_runs_again_with_all_that_gets_its_result_and_nothing_else() -> None:
    assert decide(CREW, from_task="edit")[0] == [R.COPIED, R.REQUESTED, R.CONTEXT_CHANGED, R.COPIED]
    # Without a context of their own tasks get all results before them.
    assert decide(CREW, from_task="read")[0] == [R.REQUESTED, R.CONTEXT_CHANGED, R.CONTEXT_CHANGED, R.COPIED]
    assert decide(CREW, from_task="name")[0] == [R.COPIED] * 3 + [R.REQUESTED]
    asynchronous = with_task(1, async_execution=True)
    assert decide(asynchronous, before=asynchronous, from_task="read")[0] == [R.REQUESTED] + [R.COPIED] * 3


def test_an_input_runs_again_what_names_it() -> None:
    changed = [R.INPUTS_CHANGED, R.CONTEXT_CHANGED, R.CONTEXT_CHANGED, R.COPIED]
    assert decide(CREW, inputs={"text": "Other."})[0] == changed
    # The reader's role names it, and "check" has the reader too.
    assert decide(CREW, inputs={"topic": "sails"})[0] == [*changed[:2], R.INPUTS_CHANGED, R.COPIED]


@pytest.mark.parametrize(
    "fields",
    [
        {"description": "Edit well"},
        {"expected_output": "Two briefs"},
        {"agent": "reader"},
        {"tools": (ToolSpec("calculator"),)},
        {"output_schema": {"type": "object"}},
        {"guardrails": ("Short.",)},
        {"human_approval": True},
        {"checks": (OutputCheck(matches="x"),)},
        {"condition": "true"},
        {"markdown": True},
        {"context": ()},
    ],
)
def test_a_changed_task_runs_again(fields: dict[str, Any]) -> None:
    assert decide(with_task(1, **fields))[0] == [R.COPIED, R.DEFINITION_CHANGED, R.CONTEXT_CHANGED, R.COPIED]


@pytest.mark.parametrize(
    "fields",
    [
        {"async_execution": True, "context": ("read",)},
        {"guardrail_max_retries": 9},
        {"context": ("read",)},
        {"approval": ApprovalSpec("Well?")},
    ],
)
def test_another_way_to_say_the_same_changes_nothing(fields: dict[str, Any]) -> None:
    assert decide(with_task(1, **fields))[0] == [R.COPIED] * 4


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "Clerk"},
        {"goal": "Other"},
        {"backstory": "Other"},
        {"model": "n"},
        {"function_calling_model": "n"},
        {"tools": (ToolSpec("calculator", {"digits": 2}),)},
        {"temperature": 0.5},
        {"max_tokens": 9},
        {"checks": (OutputCheck(matches="x"),)},
        {"max_iterations": 3},
        {"knowledge": (KnowledgeSpec("k", "text"),)},
        {"knowledge": (KnowledgeSpec("k", memory=KnowledgeMemory("handbook")),)},
    ],
)
def test_a_changed_agent_runs_its_tasks_again(fields: dict[str, Any]) -> None:
    changed = [R.COPIED, R.DEFINITION_CHANGED, R.CONTEXT_CHANGED, R.DEFINITION_CHANGED]
    assert decide(with_agent(1, **fields))[0] == changed


@pytest.mark.parametrize("fields", [{"max_retries": 9}, {"max_execution_time": 9.0}, {"max_calls_per_minute": 9}])
def test_limits_of_time_and_retries_change_no_result(fields: dict[str, Any]) -> None:
    assert decide(with_agent(1, **fields))[0] == [R.COPIED] * 4


@pytest.mark.parametrize(
    "fields",
    [
        {"knowledge": (KnowledgeSpec("k", "text"),)},
        {"memory": MemorySpec(enabled=True)},
        {"process": Process.HIERARCHICAL},
        {"planning": True},
    ],
)
def test_what_concerns_all_tasks_runs_all_again(fields: dict[str, Any]) -> None:
    assert decide(replace(CREW, **fields))[0] == [R.DEFINITION_CHANGED] * 4


def test_another_memory_kind_or_scope_to_look_things_up_in_runs_all_again() -> None:
    def knowing(memory: KnowledgeMemory) -> CrewSpec:
        return replace(CREW, knowledge=(KnowledgeSpec("k", memory=memory),))

    before = KnowledgeMemory("handbook", scope="/a")
    assert decide(knowing(before), before=knowing(before))[0] == [R.COPIED] * 4
    for changed in ({"memory_id": "other"}, {"kind": MemoryKind.LONG_TERM}, {"scope": "/b"}):
        after = knowing(replace(before, **changed))
        assert decide(after, before=knowing(before))[0] == [R.DEFINITION_CHANGED] * 4


def test_coworkers_count_where_work_is_delegated() -> None:
    delegating = with_agent(0, allow_delegation=True)
    other = replace(delegating, agents=(delegating.agents[0], replace(AGENTS[1], goal="Other")))
    assert decide(other, before=delegating)[0] == [R.DEFINITION_CHANGED] * 4
    managed = replace(CREW, process=Process.HIERARCHICAL, manager_model="n")
    assert decide(replace(managed, manager_model="o"), before=managed)[0] == [R.DEFINITION_CHANGED] * 4
    by_agent = replace(managed, manager_agent="editor")
    assert decide(replace(by_agent, manager_agent="reader"), before=by_agent)[0] == [R.DEFINITION_CHANGED] * 4


def test_a_condition_runs_again_with_what_it_reads() -> None:
    spec = with_task(3, condition='tasks.read.text != "" && inputs.mood != "bad" && tasks["edit"].text != ""')
    runs = [run(index, task.name) for index, task in enumerate(TASKS[:3])] + [run(3, "name", TaskState.SKIPPED)]
    assert decide(spec, before=spec, runs=runs)[0] == [R.COPIED] * 4, "skipped is skipped"
    assert decide(spec, before=spec, runs=runs, inputs={"mood": "bad"})[0] == [R.COPIED] * 3 + [R.INPUTS_CHANGED]
    assert decide(spec, before=spec, runs=runs, from_task="edit")[0][3] == R.CONTEXT_CHANGED
    assert decide(spec, before=spec, runs=runs, from_task="check")[0][3] == R.COPIED
    assert decide(spec)[0][3] == R.DEFINITION_CHANGED


def test_another_model_for_all_is_another_definition() -> None:
    assert decide(CREW, models=("", "n"))[0] == [R.DEFINITION_CHANGED] * 4
    assert decide(CREW, models=("", "m"))[0] == [R.COPIED] * 4, "the default by its name"


def test_tasks_are_matched_by_name_wherever_they_stand() -> None:
    first = TaskSpec("look", "Look", "What is there", "reader", context=())
    found, _ = decide(replace(CREW, tasks=(TASKS[3], first, TASKS[0], *TASKS[1:3])))
    # What gets all results before it gets another one now.
    assert found == [R.COPIED, R.NEW, R.DEFINITION_CHANGED, R.DEFINITION_CHANGED, R.CONTEXT_CHANGED]
    shorter = replace(CREW, tasks=(TASKS[0], TASKS[3]))
    assert decide(shorter)[0] == [R.COPIED] * 2


def test_an_unfinished_task_goes_on_where_it_stopped_as_far_as_it_is_the_same() -> None:
    failed = [run(0, "read"), run(1, "edit", TaskState.FAILED, "UPSTREAM_REJECTED")]
    pending = [run(2, "check", TaskState.CANCELLED), run(3, "name", TaskState.CANCELLED)]
    reuse, journals = decide(CREW, runs=[*failed, *pending])
    assert reuse == [R.COPIED, R.UNFINISHED, R.UNFINISHED, R.UNFINISHED]
    assert journals == JournalReuse({1: 1, 2: 2, 3: 3}, {1: 1, 3: 3}, {1: 1, 2: 2, 3: 3})
    # Outcomes of tools are for the task as it was; an answer of a model applies to the same prompt anyway.
    assert decide(with_agent(1, model="n"), runs=[*failed, *pending])[1].tools == {}
    assert decide(CREW, runs=[*failed, *pending], declined=(1,))[1].answers == {2: 2, 3: 3}
    reuse, journals = decide(CREW, runs=[*failed, *pending], from_task="edit")
    assert reuse == [R.COPIED, R.REQUESTED, R.UNFINISHED, R.UNFINISHED]
    assert 1 not in journals.answers
    # What has been done in the world is not done again, whoever asks for another run.
    assert journals.effects == {1: 1, 2: 2, 3: 3}
    by_answers = [run(0, "read", TaskState.FAILED, "TASK_FAILED"), *[run(i, TASKS[i].name) for i in (1, 2, 3)]]
    assert decide(CREW, runs=by_answers) == (
        [R.UNFINISHED, R.CONTEXT_CHANGED, R.CONTEXT_CHANGED, R.COPIED],
        JournalReuse({}, {}, {0: 0}),
    )


def test_a_journal_goes_along_to_the_place_its_task_has_now() -> None:
    moved = replace(CREW, tasks=(TASKS[3], *TASKS[:3]))
    runs = [run(0, "read", TaskState.FAILED, "UPSTREAM_REJECTED"), run(3, "name")]
    _, journals = decide(moved, runs=runs)
    assert journals.answers == {0: 1}


@pytest.mark.parametrize(
    ("after", "same"),
    [
        (CREW, True),
        (with_agent(1, max_retries=9), True),
        (with_agent(1, model="n"), True),
        (with_task(3, description="Other"), False),
        (with_task(3, agent="reader"), False),
        (with_agent(1, goal="Other"), False),
        (replace(CREW, planning_model="n"), False),
        (replace(CREW, tasks=TASKS[:3]), False),
    ],
)
def test_a_plan_holds_while_what_it_is_made_from_does(after: CrewSpec, same: bool) -> None:
    before, changed = (fill_in_models(spec, default="m") for spec in (CREW, after))
    assert (plan_fingerprint(before, INPUTS) == plan_fingerprint(changed, INPUTS)) is same


names = st.sampled_from("abcdef")
texts = st.sampled_from(["x", "{p}", "{q} and {p}"])


@st.composite
def crews(draw: st.DrawFn) -> CrewSpec:
    chosen = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    tasks = []
    for index, name in enumerate(chosen):
        context = draw(st.none() | st.lists(st.sampled_from(chosen[:index] or ["-"]), unique=True).map(tuple))
        context = None if context is None else tuple(task for task in context if task != "-")
        agent = draw(st.sampled_from(["one", "two"]))
        tasks.append(TaskSpec(name, draw(texts), "y", agent, context=context, async_execution=draw(st.booleans())))
    agents = tuple(AgentSpec(name, draw(texts), "g") for name in ("one", "two"))
    return CrewSpec("c", agents, tuple(tasks), model=draw(st.sampled_from(["", "n"])))


@given(crews(), crews(), st.dictionaries(st.sampled_from("pq"), st.integers(0, 1)), names | st.just(""))
def test_what_is_copied_was_made_from_the_same(
    before: CrewSpec, after: CrewSpec, inputs: dict[str, Any], from_task: str
) -> None:
    reuse, _ = decide(after, before=before, inputs=inputs, from_task=from_task)
    old = {task.name: index for index, task in enumerate(before.tasks)}
    for index, decision in enumerate(reuse):
        task = after.tasks[index]
        if decision is not R.COPIED:
            continue
        assert task.name != from_task
        was = old[task.name]
        assert before.tasks[was].description == task.description
        now_from = [after.tasks[other].name for other in context_of(after, index)]
        assert now_from == [before.tasks[other].name for other in context_of(before, was)]
        assert all(reuse[other] is R.COPIED for other in context_of(after, index))


@given(crews(), names | st.just(""))
def test_of_the_same_crew_only_what_depends_on_the_named_task_runs(spec: CrewSpec, from_task: str) -> None:
    reuse, _ = decide(spec, before=spec, from_task=from_task)
    affected: set[int] = set()
    for index, task in enumerate(spec.tasks):
        if task.name == from_task or affected & set(context_of(spec, index)):
            affected.add(index)
    assert {index for index, decision in enumerate(reuse) if decision is not R.COPIED} == affected
