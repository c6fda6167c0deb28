"""Which tools a crew process is told of, and which have to be usable."""

from dataclasses import replace

from coxswain.orchestrator.worker.link_pb2 import OpenSession
from services.orchestrator.domain.crew import AgentSpec, CrewSpec, Process, TaskSpec, ToolSpec
from services.orchestrator.domain.execution import TaskState
from services.orchestrator.domain.tool_sets import tool_sets
from services.orchestrator.tool_resolver import resolve_tools
from services.orchestrator.worker.host.agent_tools import AgentTools, needed_tools

CALCULATOR, CLOCK = ToolSpec("calculator"), ToolSpec("current_time")
SPEC = CrewSpec(
    "crew",
    (AgentSpec("a", "A", "g", tools=(CALCULATOR,)), AgentSpec("b", "B", "g", tools=(CLOCK,))),
    (TaskSpec("one", "d", "e", "a", tools=(CLOCK,)), TaskSpec("two", "d", "e", "b")),
)
PENDING, DONE = TaskState.PENDING, TaskState.SUCCEEDED


def test_each_tool_is_told_once_and_sets_name_it() -> None:
    assert tool_sets(SPEC) == [(CALCULATOR,), (CLOCK,), (CLOCK,), (), (CALCULATOR, CLOCK), (CLOCK,)]
    session = OpenSession()
    AgentTools.of([resolve_tools(specs, {}) for specs in tool_sets(SPEC)]).put_into(session)
    assert [(tool.id, tool.name, tool.in_crew_process) for tool in session.tools] == [
        ("0", "calculator", True),
        ("1", "current_time", True),
    ]
    assert [list(tools.tool_ids) for tools in session.tool_sets] == [["0"], ["1"], ["1"], [], ["0", "1"], ["1"]]


def test_tools_of_finished_tasks_may_be_gone() -> None:
    assert needed_tools(SPEC, [PENDING, PENDING]) == [(CALCULATOR,), (CLOCK,), (CLOCK,), ()]
    assert needed_tools(SPEC, [DONE, PENDING]) == [(CLOCK,), ()]
    assert needed_tools(SPEC, [DONE, DONE]) == []


def test_a_task_needs_the_tools_of_whoever_may_work_for_it() -> None:
    delegating = replace(SPEC, agents=(replace(SPEC.agents[0], allow_delegation=True), SPEC.agents[1]))
    assert needed_tools(delegating, [PENDING, DONE]) == [(CALCULATOR,), (CLOCK,), (CLOCK,)]
    hierarchical = replace(SPEC, process=Process.HIERARCHICAL, tasks=(replace(SPEC.tasks[0], agent=""),))
    assert needed_tools(hierarchical, [PENDING]) == [(CALCULATOR,), (CLOCK,), (CLOCK,)]
