"""A crew run task by task says to its models, word for word, what CrewAI says when it runs the crew as a whole."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.domain.crew import AgentSpec, CrewSpec, Process, TaskSpec
from services.orchestrator.domain.document import to_document
from services.orchestrator.worker.host.crew_environment import crew_environment
from services.orchestrator.worker.host.crew_process import ForkServer
from tests.unit.worker.crew.replies import scripted, told_conversation
from tests.unit.worker.crew.scripted_host import ScriptedHost, segment

pytestmark = pytest.mark.asyncio(loop_scope="session")

READER = AgentSpec("reader", "Reader", "Read closely", "You have read everything.", model="m")
WRITER = AgentSpec("writer", "Writer", "Write well", "You have written everything.", model="m")
ONE = TaskSpec("one", "Find facts.", "Three facts", "reader")
TWO = TaskSpec("two", "Write a page.", "One page", "writer")
THREE = TaskSpec("three", "Check the page.", "A verdict", "reader", markdown=True)


def crew(*tasks: TaskSpec, agents: tuple[AgentSpec, ...] = (READER, WRITER), **fields: Any) -> CrewSpec:
    return CrewSpec("c", agents, tasks, model="m", manager_model="m", planning_model="m", **fields)


HIERARCHICAL: dict[str, Any] = {"process": Process.HIERARCHICAL}
DELEGATING = (replace(READER, allow_delegation=True), WRITER)
CREWS = {
    "sequential": crew(ONE, TWO, THREE),
    "explicit context": crew(ONE, TWO, replace(THREE, context=("one",))),
    "no context": crew(ONE, TWO, replace(THREE, context=())),
    "asynchronous": crew(replace(ONE, async_execution=True), replace(TWO, async_execution=True), THREE),
    "asynchronous with context": crew(ONE, replace(TWO, async_execution=True, context=("one",)), THREE),
    "hierarchical": crew(replace(ONE, agent=""), replace(TWO, agent=""), **HIERARCHICAL),
    "hierarchical with agents": crew(ONE, TWO, **HIERARCHICAL),
    "sequential with delegation": crew(ONE, TWO, agents=DELEGATING),
    "hierarchical with delegation": crew(ONE, TWO, agents=DELEGATING, **HIERARCHICAL),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What CrewAI alone says, crew by crew."""
    environment = crew_environment(tmp_path_factory.mktemp("whole"))
    Path(environment["HOME"]).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.worker.crew.whole_crew"],
        input="\n".join(json.dumps(to_document(spec)) for spec in CREWS.values()),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("[{")]
    return dict(zip(CREWS, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("name", CREWS)
async def test_prompts_are_those_of_the_whole_crew(
    name: str, whole: dict[str, list[Any]], fork_server: ForkServer
) -> None:
    spec = CREWS[name]
    host = ScriptedHost(lambda request: scripted(told_conversation(request)))
    async with segment(fork_server, host, spec) as run:
        await run.all()
    said = [json.dumps(told_conversation(request), sort_keys=True) for request in host.requests]
    expected = [json.dumps(asked, sort_keys=True) for asked in whole[name]]
    # Tasks beside each other may come in either order.
    assert sorted(said) == sorted(expected)
    assert len(said) >= len(spec.tasks)
