"""What matters most, once more on PostgreSQL: hints through the database, takeover, cancellation, memory."""

from pathlib import Path

from coxswain.orchestrator.v1 import crew_pb2, execution_pb2
from tests.integration.worker.installation import CAPABLE, Installation, install, is_kind
from tests.support.llm_script import Reply

S = execution_pb2


def spec() -> crew_pb2.CrewSpec:
    return crew_pb2.CrewSpec(
        name="brief",
        model=CAPABLE,
        memory=crew_pb2.MemorySpec(enabled=True),
        agents=[crew_pb2.AgentSpec(name="reader", role="Reader", goal="Read")],
        tasks=[
            crew_pb2.TaskSpec(name=name, description=f"Do the {name} thing.", expected_output="Words", agent="reader")
            for name in ("first", "second")
        ],
    )


async def hanging_execution(installation: Installation) -> execution_pb2.Execution:
    installation.llm.clear_rules()
    installation.llm.clear_log()
    installation.llm.on(Reply(text="First done."), contains="Current Task: Do the first thing.")
    installation.llm.on(Reply(text="Second done.", hang=True), contains="Current Task: Do the second thing.", times=1)
    installation.llm.on(Reply(text="Second done."))
    execution = await installation.start(spec())
    await installation.llm.wait_for_calls(1, hanging=True)
    return execution


async def test_takeover_and_cancellation_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    async with install(tmp_path, database_url=postgres_url) as installation:
        await installation.hosts(2)
        execution = await hanging_execution(installation)
        victim = await installation.holder()
        await installation.task_started(execution.id, "second")
        victim.kill()
        await victim.ended()
        ended = await installation.finished(execution.id)
        assert (ended.state, ended.result.text, ended.claims) == (S.EXECUTION_STATE_SUCCEEDED, "Second done.", 2)
        assert [run.attempt for run in await installation.tasks(execution.id)] == [1, 2]
        events = await installation.watch(execution.id)
        assert [event.sequence for event in events] == sorted({event.sequence for event in events})
        assert sum(map(is_kind("task_completed"), events)) == 2

        execution = await hanging_execution(installation)
        await installation.executions().CancelExecution(execution_pb2.CancelExecutionRequest(id=execution.id))
        ended = await installation.finished(execution.id)
        assert ended.state == S.EXECUTION_STATE_CANCELLED
        assert (await installation.tasks(execution.id))[0].output.text == "First done."

        installation.llm.clear_log()
        request = S.ForkExecutionRequest(id=ended.id, from_task="second")
        forked = (await installation.executions().ForkExecution(request)).execution
        ended = await installation.finished(forked.id)
        assert (ended.state, ended.usage.llm_calls) == (S.EXECUTION_STATE_SUCCEEDED, 1)
        assert len(installation.llm.calls_where(route="chat")) == 1
