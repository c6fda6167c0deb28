"""ResumeExecution and ForkExecution over real gRPC: what goes along, what runs again, what is refused."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.orchestrator.v1 import crew_pb2
from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.common.clock import utc_now
from services.common.ids import new_id
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.tables import llm_journal, tool_journal
from tests.integration.orchestrator.support import (
    CAPABLE_MODEL,
    Worker,
    create_crew,
    crews,
    executions_of,
    refused,
    start_request,
)
from tests.support.harness import BOB, Harness

CODE = grpc.StatusCode
COPIED, REQUESTED, NEW = pb.TASK_REUSE_COPIED, pb.TASK_REUSE_REQUESTED, pb.TASK_REUSE_NEW
UNFINISHED, DEFINITION = pb.TASK_REUSE_UNFINISHED, pb.TASK_REUSE_DEFINITION_CHANGED
INPUTS, CONTEXT = pb.TASK_REUSE_INPUTS_CHANGED, pb.TASK_REUSE_CONTEXT_CHANGED


async def ended(
    harness: Harness, worker: Worker, finished: int, state: ExecutionState = ExecutionState.FAILED, **fields: Any
) -> pb.Execution:
    """An execution of "brief" that ended after so many of its three tasks."""
    crew = await create_crew(harness, name=f"brief {new_id()}", model=CAPABLE_MODEL)
    made = (await executions_of(harness).StartExecution(start_request(crew.id, **fields))).execution
    await worker.claim(made.id)
    for index in range(finished):
        await worker.finish_task(made.id, index, f"result {index}")
    last = {
        ExecutionState.FAILED: pb.ExecutionFailed(error=pb.ExecutionError(reason="UPSTREAM_REJECTED", message="no")),
        ExecutionState.SUCCEEDED: pb.ExecutionSucceeded(),
        ExecutionState.CANCELLED: pb.ExecutionCancelled(),
    }[state]
    await worker.end(made.id, state, last)
    return made


async def change(harness: Harness, crew_id: str, path: str, spec: crew_pb2.CrewSpec) -> crew_pb2.Crew:
    request = crew_pb2.UpdateCrewRequest(id=crew_id, spec=spec, update_mask=FieldMask(paths=[path]))
    return (await crews(harness).UpdateCrew(request)).crew


async def spec_of(harness: Harness, crew_id: str) -> crew_pb2.CrewSpec:
    return (await crews(harness).GetCrew(crew_pb2.GetCrewRequest(id=crew_id))).crew.spec


async def decided(harness: Harness, execution: pb.Execution) -> list[int]:
    """What was decided of each task; the rows say the same."""
    stub = executions_of(harness)
    events = stub.WatchExecution(pb.WatchExecutionRequest(id=execution.id))
    seen = []
    async for response in events:
        seen.append(response.event)
        if len(seen) == 2:
            break
    events.cancel()
    assert [event.WhichOneof("event") for event in seen] == ["execution_queued", "execution_continued"]
    continued = seen[1].execution_continued
    assert continued.execution_id == execution.resumed_from
    tasks = (await stub.GetTaskOutputs(pb.GetTaskOutputsRequest(id=execution.id))).tasks
    assert [task.task_name for task in tasks] == [task.task_name for task in continued.tasks]
    assert [task.copied for task in tasks] == [task.reuse == COPIED for task in continued.tasks]
    assert all((task.state == pb.TASK_STATE_SUCCEEDED) is task.copied for task in tasks)
    return [task.reuse for task in continued.tasks]


async def fork(harness: Harness, made: pb.Execution, **fields: Any) -> pb.Execution:
    inputs = fields.pop("inputs", {})
    request = pb.ForkExecutionRequest(id=made.id, **fields)
    for name, value in inputs.items():
        request.inputs[name].string_value = value
    return (await executions_of(harness).ForkExecution(request)).execution


async def resume(harness: Harness, made: pb.Execution, **fields: Any) -> pb.Execution:
    return (await executions_of(harness).ResumeExecution(pb.ResumeExecutionRequest(id=made.id, **fields))).execution


async def test_a_resumed_execution_may_go_on_with_another_model_and_copies_what_is_finished(
    harness: Harness, worker: Worker
) -> None:
    made = await ended(harness, worker, 1, labels={"order": "1", "try": "1"}, timeout=Duration(seconds=9))
    resumed = await resume(
        harness, made, model="ollama/gpt-oss:20b", labels={"try": "2"}, timeout=Duration(seconds=60), request_id="r"
    )
    assert (resumed.model, resumed.resumed_from, resumed.forked_from_task) == ("ollama/gpt-oss:20b", made.id, "")
    assert (dict(resumed.labels), resumed.timeout.seconds) == ({"order": "1", "try": "2"}, 60)
    assert resumed.last_sequence == 2
    assert await decided(harness, resumed) == [COPIED, UNFINISHED, UNFINISHED]
    again = await resume(
        harness, made, model="ollama/gpt-oss:20b", labels={"try": "2"}, timeout=Duration(seconds=60), request_id="r"
    )
    assert again.id == resumed.id
    with refused(CODE.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await resume(harness, made, request_id="r")
    unchanged = await resume(harness, made)
    assert (unchanged.model, unchanged.timeout.seconds) == ("", 9)
    # Absent is as before; empty is the crew's own.
    assert (await resume(harness, await _failed_again(harness, worker, resumed))).model == "ollama/gpt-oss:20b"
    assert (await resume(harness, resumed, model="")).model == ""


async def _failed_again(harness: Harness, worker: Worker, execution: pb.Execution) -> pb.Execution:
    await worker.claim(execution.id)
    await worker.end(execution.id, ExecutionState.FAILED, pb.ExecutionFailed())
    return execution


async def test_another_revision_runs_again_what_it_changes(harness: Harness, worker: Worker) -> None:
    made = await ended(harness, worker, 2)
    spec = await spec_of(harness, made.crew_id)
    spec.tasks[1].description = "Edit better"
    spec.tasks.add(name="name", description="Name it", expected_output="A name", agent="editor")
    changed = await change(harness, made.crew_id, "tasks", spec)
    assert changed.revision == 2
    same = await resume(harness, made)
    assert (same.crew_revision, await decided(harness, same)) == (1, [COPIED, COPIED, UNFINISHED])
    for revision in (0, 2):
        newer = await resume(harness, made, crew_revision=revision)
        assert newer.crew_revision == 2
        assert await decided(harness, newer) == [COPIED, DEFINITION, UNFINISHED, NEW]
    with refused(CODE.NOT_FOUND, "NOT_FOUND") as refusal:
        await resume(harness, made, crew_revision=3)
    told = f'the crew "{made.crew_name}" has no revision 3; give one from 1 to 2, or 0 for the newest'
    assert refusal.violations == {"crew_revision": told}
    await crews(harness).DeleteCrew(crew_pb2.DeleteCrewRequest(id=made.crew_id))
    assert (await resume(harness, made, crew_revision=0)).crew_revision == 2


async def test_a_fork_of_what_succeeded_runs_again_what_is_wanted(harness: Harness, worker: Worker) -> None:
    made = await ended(harness, worker, 3, ExecutionState.SUCCEEDED)
    from_edit = await fork(harness, made, from_task="edit", model="ollama/gpt-oss:20b", request_id="f")
    assert (from_edit.forked_from_task, from_edit.model) == ("edit", "ollama/gpt-oss:20b")
    assert await decided(harness, from_edit) == [COPIED, REQUESTED, CONTEXT]
    assert (await fork(harness, made, from_task="edit", model="ollama/gpt-oss:20b", request_id="f")).id == from_edit.id
    other_model = await fork(harness, made, model="ollama/gpt-oss:20b")
    assert await decided(harness, other_model) == [DEFINITION] * 3
    other_input = await fork(harness, made, inputs={"text": "Another text."})
    assert await decided(harness, other_input) == [INPUTS, CONTEXT, CONTEXT]
    assert {name: value.string_value for name, value in other_input.inputs.items()} == {
        "topic": "ships",
        "text": "Another text.",
    }
    found = (await executions_of(harness).GetExecution(pb.GetExecutionRequest(id=made.id))).execution
    assert found.state == pb.EXECUTION_STATE_SUCCEEDED


async def test_a_fork_that_would_run_nothing_is_refused(harness: Harness, worker: Worker) -> None:
    made = await ended(harness, worker, 3, ExecutionState.SUCCEEDED)
    for fields in ({}, {"model": CAPABLE_MODEL}, {"inputs": {"unused": "x"}}, {"labels": {"a": "b"}}):
        with refused(CODE.FAILED_PRECONDITION, "NOTHING_TO_RUN") as refusal:
            await fork(harness, made, **fields)
        assert refusal.metadata == {"execution_id": made.id}
        assert "from_task" in refusal.message
    failed = await ended(harness, worker, 1, ExecutionState.CANCELLED)
    assert await decided(harness, await fork(harness, failed)) == [COPIED, UNFINISHED, UNFINISHED]


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING", "SUCCEEDED"])
async def test_what_has_not_ended_can_neither_be_resumed_nor_forked(
    harness: Harness, worker: Worker, state: str
) -> None:
    if state == "SUCCEEDED":
        made = await ended(harness, worker, 3, ExecutionState.SUCCEEDED)
    else:
        crew = await create_crew(harness)
        made = (await executions_of(harness).StartExecution(start_request(crew.id))).execution
        if state == "RUNNING":
            await worker.claim(made.id)
    with refused(CODE.FAILED_PRECONDITION, "EXECUTION_STATE") as refusal:
        await resume(harness, made, from_task="edit")
    assert refusal.metadata == {"execution_id": made.id, "state": state}
    if state == "SUCCEEDED":
        assert "ForkExecution" in refusal.message
    else:
        with refused(CODE.FAILED_PRECONDITION, "EXECUTION_STATE"):
            await fork(harness, made, from_task="edit")


async def test_changes_that_cannot_run_are_refused_by_their_fields(harness: Harness, worker: Worker) -> None:
    made = await ended(harness, worker, 1)
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await resume(harness, made, from_task="edti")
    assert refusal.violations == {"from_task": 'the crew has no task "edti"; its tasks are: read, edit, check'}
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await resume(harness, made, model="openai/gpt-5o")
    assert list(refusal.violations) == ["model"]
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await resume(harness, made, model="openai/gpt-5o", from_task="edti")
    assert list(refusal.violations) == ["from_task", "model"]
    assert "edti" in refusal.message
    spec = await spec_of(harness, made.crew_id)
    spec.tasks[2].description = "Check {rules}"
    del spec.tasks[1]
    await change(harness, made.crew_id, "tasks", spec)
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await resume(harness, made, crew_revision=2)
    assert list(refusal.violations) == ["inputs.rules"]
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await fork(harness, made, crew_revision=2, inputs={"rules": "r"}, from_task="edit")
    assert list(refusal.violations) == ["from_task"]
    forked = await fork(harness, made, crew_revision=2, inputs={"rules": "r"})
    assert await decided(harness, forked) == [COPIED, UNFINISHED]
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await fork(harness, made, inputs={"text": "x" * 1_100_000})
    assert list(refusal.violations) == ["inputs"]


async def test_another_group_continues_nothing(harness: Harness, worker: Worker) -> None:
    made = await ended(harness, worker, 3, ExecutionState.SUCCEEDED)
    foreign = executions_of(harness, BOB)
    for call in (
        foreign.ForkExecution(pb.ForkExecutionRequest(id=made.id, from_task="edit")),
        foreign.ResumeExecution(pb.ResumeExecutionRequest(id=made.id, crew_revision=0)),
    ):
        with refused(CODE.NOT_FOUND, "NOT_FOUND") as refusal:
            await call
        assert refusal.message == f'there is no execution "{made.id}" in your group'


async def test_one_fork_for_one_request_even_at_once(harness: Harness, worker: Worker) -> None:
    made = await ended(harness, worker, 3, ExecutionState.SUCCEEDED)
    forks = await asyncio.gather(*(fork(harness, made, from_task="edit", request_id="f") for _ in range(6)))
    assert len({forked.id for forked in forks}) == 1


async def test_journals_go_along_a_chain_and_stay_with_their_tasks(harness: Harness, worker: Worker) -> None:
    made = await ended(harness, worker, 1)
    async with worker.database.write() as connection:
        for index in (0, 1):
            row = {"execution_id": made.id, "task_index": index, "created_at": utc_now()}
            answer = {**row, "request_hash": "h", "occurrence": 0, "response": b"{}"}
            await connection.execute(llm_journal.insert().values(answer))
        for key, state in (("done", ToolCallState.COMPLETED), ("unknown", ToolCallState.INTENT)):
            await connection.execute(
                tool_journal.insert().values(
                    execution_id=made.id,
                    task_index=1,
                    call_key=key,
                    tool_name="t",
                    idempotent=False,
                    state=state,
                    epoch=1,
                    result=b"r",
                    error="",
                    intended_at=utc_now(),
                )
            )

    async def journals(execution: pb.Execution) -> tuple[list[int], list[tuple[int, str]]]:
        async with worker.database.read() as connection:
            answers = await connection.execute(
                llm_journal.select().where(llm_journal.c.execution_id == execution.id).order_by("task_index")
            )
            tools = await connection.execute(tool_journal.select().where(tool_journal.c.execution_id == execution.id))
            return [row.task_index for row in answers], sorted((row.task_index, row.call_key) for row in tools)

    resumed = await resume(harness, made)
    # What nobody knows the end of goes along too: it must not be done again.
    assert await journals(resumed) == ([1], [(1, "done"), (1, "unknown")])
    # It never started, and still hands on what it was given.
    await executions_of(harness).CancelExecution(pb.CancelExecutionRequest(id=resumed.id))
    again = await resume(harness, resumed, model="ollama/gpt-oss:20b")
    assert await journals(again) == ([1], [(1, "done"), (1, "unknown")])
    # A task that starts over asks models again; what its tools have done in the world is done.
    started_over = await fork(harness, made, from_task="edit")
    assert await journals(started_over) == ([], [(1, "done"), (1, "unknown")])
    spec = await spec_of(harness, made.crew_id)
    spec.tasks.insert(0, crew_pb2.TaskSpec(name="a", description="A", expected_output="A", agent="editor"))
    spec.tasks[2].context.tasks.append("read")
    spec.tasks[1].context.SetInParent()
    await change(harness, made.crew_id, "tasks", spec)
    moved = await fork(harness, made, crew_revision=2)
    assert await decided(harness, moved) == [NEW, COPIED, UNFINISHED, UNFINISHED]
    assert await journals(moved) == ([2], [(2, "done"), (2, "unknown")])
