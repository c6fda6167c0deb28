"""A crew that ruins its process, or host after host, ends with a reason; what others do and what is finished stay."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from coxswain.orchestrator.v1 import crew_pb2, execution_pb2
from tests.integration.worker.installation import CAPABLE, Installation, install, is_kind
from tests.support.llm_script import Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

S = execution_pb2
MEMORY_MIB = 48
LOST_HOSTS = 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    environment = {
        "COXSWAIN_WORKER_CREW_MEMORY_MIB": str(MEMORY_MIB),
        "COXSWAIN_WORKER_MAX_LOST_HOSTS": str(LOST_HOSTS),
    }
    async with install(tmp_path_factory.mktemp("lost"), **environment) as running:
        yield running


def spec(**tasks: str) -> crew_pb2.CrewSpec:
    return crew_pb2.CrewSpec(
        name="brief",
        model=CAPABLE,
        agents=[crew_pb2.AgentSpec(name="reader", role="Reader", goal="Read")],
        tasks=[
            crew_pb2.TaskSpec(name=name, description=description, expected_output="Words", agent="reader")
            for name, description in tasks.items()
        ],
    )


async def test_a_crew_without_memory_fails_with_the_limit_and_its_neighbour_goes_on(installation: Installation) -> None:
    (host,) = await installation.hosts(1)
    installation.llm.on(Reply(text="Calm.", hang=True), last_contains="Stay calm.")
    neighbour = await installation.start(spec(calm="Stay calm."))
    await installation.llm.wait_for_calls(1, hanging=True)
    crew_process = host.crew_process

    greedy = await installation.start(spec(greedy="Read " + "{text}" * 200), inputs={"text": "word " * 100_000})
    ended = await installation.finished(greedy.id)

    assert (ended.state, ended.error.reason, ended.error.task_name) == (
        S.EXECUTION_STATE_FAILED,
        "CREW_PROCESS_LIMIT",
        "greedy",
    )
    assert f"more than {MEMORY_MIB} MiB of memory" in ended.error.message
    assert "COXSWAIN_WORKER_CREW_MEMORY_MIB" in ended.error.message
    assert ended.claims == 1
    assert crew_process in host.crew_processes()
    installation.llm.release()
    calm = await installation.finished(neighbour.id)
    assert (calm.state, calm.result.text, calm.claims) == (S.EXECUTION_STATE_SUCCEEDED, "Calm.", 1)


async def test_an_execution_whose_hosts_die_again_and_again_fails_and_keeps_what_is_finished(
    installation: Installation,
) -> None:
    llm = installation.llm
    llm.clear_rules()
    llm.clear_log()
    llm.on(Reply(text="First done."), last_contains="Do the first thing.")
    llm.on(Reply(text="Second done.", hang=True), last_contains="Do the second thing.", times=LOST_HOSTS + 1)
    llm.on(Reply(text="Second done."), last_contains="Do the second thing.")
    await installation.hosts(1)
    execution = await installation.start(spec(first="Do the first thing.", second="Do the second thing."))
    # The first host finishes a task before it dies, so it does not count.
    for lost in range(LOST_HOSTS + 1):
        await llm.wait_for_calls(lost + 2)
        await installation.task_started(execution.id, "second", attempt=lost + 1)
        (host,) = [worker for worker in installation.workers if worker.process.returncode is None]
        host.kill()
        await host.ended()
        await installation.hosts(1)

    ended = await installation.finished(execution.id)
    assert (ended.state, ended.error.reason, ended.error.task_name) == (
        S.EXECUTION_STATE_FAILED,
        "WORKER_LOST_REPEATEDLY",
        "second",
    )
    assert ended.error.message.startswith(
        f"{LOST_HOSTS} worker hosts in a row died while they ran the execution in task second, and none finished a task"
    )
    first, second = await installation.tasks(execution.id)
    assert (first.output.text, first.attempt, second.attempt) == ("First done.", 1, LOST_HOSTS + 1)
    events = await installation.watch(execution.id)
    started = [event.execution_started for event in events if is_kind("execution_started")(event)]
    assert [(event.claim, event.lost_hosts) for event in started] == [(1, 0), (2, 0), (3, 1), (4, 2)]

    resumed = await installation.executions().ResumeExecution(S.ResumeExecutionRequest(id=execution.id))
    last = await installation.finished(resumed.execution.id)
    assert (last.state, last.result.text, last.claims) == (S.EXECUTION_STATE_SUCCEEDED, "Second done.", 1)
