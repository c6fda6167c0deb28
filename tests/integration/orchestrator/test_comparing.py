"""CompareExecutions over real gRPC: several executions side by side, in messages of a bounded size."""

from typing import Any

import grpc
from sqlalchemy import update

from coxswain.orchestrator.v1 import crew_pb2
from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.common.ids import new_id
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.tables import task_runs
from tests.integration.orchestrator.support import (
    CAPABLE_MODEL,
    Worker,
    create_crew,
    executions_of,
    refused,
    start,
    start_request,
)
from tests.support.harness import BOB, Harness

CODE = grpc.StatusCode


async def finished(harness: Harness, worker: Worker, crew_id: str, *texts: str, **inputs: str) -> pb.Execution:
    """An execution that succeeded, whose tasks have these results."""
    request = start_request(crew_id)
    for name, value in inputs.items():
        request.inputs[name].string_value = value
    made = (await executions_of(harness).StartExecution(request)).execution
    await worker.claim(made.id)
    for index, text in enumerate(texts):
        await worker.finish_task(made.id, index, text)
    await worker.end(made.id, ExecutionState.SUCCEEDED, pb.ExecutionSucceeded())
    return made


async def compare(harness: Harness, *ids: str, bearer: str = "", **fields: Any) -> pb.CompareExecutionsResponse:
    stub = executions_of(harness, bearer) if bearer else executions_of(harness)
    request = pb.CompareExecutionsRequest(ids=ids, **fields)
    first = await stub.CompareExecutions(request)
    token = first.next_page_token
    while token:
        page = await stub.CompareExecutions(pb.CompareExecutionsRequest(ids=ids, page_token=token, **fields))
        assert not page.executions
        assert not page.inputs
        first.tasks.extend(page.tasks)
        token = page.next_page_token
    return first


async def test_executions_lie_side_by_side_task_by_task(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness, name=f"brief {new_id()}", model=CAPABLE_MODEL)
    first = await finished(harness, worker, crew.id, "notes", "brief", "yes")
    second = await finished(harness, worker, crew.id, "notes", "a better brief", "yes", text="Another text.", more="x")
    async with worker.database.write() as connection:
        await connection.execute(
            update(task_runs)
            .where(task_runs.c.execution_id == second.id, task_runs.c.task_index == 1)
            .values(llm_calls=3, input_tokens=40, output_tokens=20, cost=0.5)
        )
    fork = pb.ForkExecutionRequest(id=second.id, from_task="check", model="ollama/gpt-oss:20b")
    third = (await executions_of(harness).ForkExecution(fork)).execution
    found = await compare(harness, first.id, second.id, third.id)
    assert [execution.id for execution in found.executions] == [first.id, second.id, third.id]
    assert [execution.model for execution in found.executions] == ["", "", "ollama/gpt-oss:20b"]
    assert found.differing_fields == ["model", "state", "inputs.more", "inputs.text"]
    assert [[value.value_json for value in given.values] for given in found.inputs] == [
        ["", '"x"', '"x"'],
        ['"A coxswain steers."', '"Another text."', '"Another text."'],
    ]
    _, edit, check = found.tasks
    assert [(task.task_name, task.same_output) for task in found.tasks] == [
        ("read", True),
        ("edit", False),
        ("check", False),
    ]
    assert [result.task.output.text for result in edit.results] == ["brief", "a better brief", "a better brief"]
    assert [result.task.copied for result in edit.results] == [False, False, True]
    used = edit.results[1].task.usage
    assert (used.llm_calls, used.input_tokens, used.output_tokens, used.cost) == (3, 40, 20, 0.5)
    assert edit.results[2].task.usage == pb.ExecutionUsage()
    assert [result.task.state for result in check.results][2] == pb.TASK_STATE_PENDING
    assert not any(task.same_definition for task in found.tasks), "another model for all"
    same = await compare(harness, second.id, first.id)
    assert [task.same_definition for task in same.tasks] == [False, True, True], "the text is an input of one task"


async def test_tasks_are_matched_by_name_over_crews_and_revisions(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness, name=f"brief {new_id()}")
    extra = [crew_pb2.TaskSpec(name="name", description="N", expected_output="A name", agent="editor")]
    other = await create_crew(harness, name=f"brief {new_id()}", tasks=extra)
    first = await finished(harness, worker, crew.id, "a", "b", "c")
    second = await finished(harness, worker, other.id, "a", "b", "c", "d")
    found = await compare(harness, first.id, second.id)
    assert found.differing_fields == ["crew_id"]
    assert [task.task_name for task in found.tasks] == ["read", "edit", "check", "name"]
    assert [task.same_definition for task in found.tasks] == [True, True, True, False]
    absent, there = found.tasks[3].results
    assert (absent.HasField("task"), there.task.output.text) == (False, "d")
    assert not found.tasks[3].same_output


async def test_long_texts_are_cut_and_many_tasks_come_in_pages(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness, name=f"brief {new_id()}")
    made = [
        await finished(harness, worker, crew.id, "é" * 30_000, "b", "c", text=f"{number}" * 5000)
        for number in range(16)
    ]
    ids = [execution.id for execution in made]
    found = await compare(harness, *ids)
    assert {len(result.task.output.text) for result in found.tasks[0].results} == {2000}
    assert all(result.cut for result in found.tasks[0].results)
    assert found.tasks[0].same_output
    assert not any(result.cut for result in found.tasks[1].results)
    assert {(len(value.value_json), value.cut) for value in found.inputs[0].values} == {(2000, True)}
    request = pb.CompareExecutionsRequest(ids=ids, max_text_characters=16384)
    assert (await executions_of(harness).CompareExecutions(request)).ByteSize() < 4_000_000
    assert (await compare(harness, *ids, page_size=1)).tasks == found.tasks
    page = await executions_of(harness).CompareExecutions(pb.CompareExecutionsRequest(ids=ids, page_size=1))
    token = page.next_page_token
    with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await executions_of(harness).CompareExecutions(pb.CompareExecutionsRequest(ids=ids[:2], page_token=token))


async def test_what_cannot_be_compared_is_said(harness: Harness) -> None:
    made, other = await start(harness), await start(harness)
    for ids in ([made.id], [made.id] * 2, [made.id, ""], [str(number) for number in range(17)]):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await compare(harness, *ids)
        assert all(field.startswith("ids") for field in refusal.violations)
    foreign = await start(harness, BOB)
    with refused(CODE.NOT_FOUND, "NOT_FOUND") as refusal:
        await compare(harness, made.id, foreign.id)
    assert refusal.violations == {"ids[1]": f'there is no execution "{foreign.id}" in your group'}
    with refused(CODE.NOT_FOUND, "NOT_FOUND") as refusal:
        await compare(harness, "nobody", made.id, "nothing")
    assert set(refusal.violations) == {"ids[0]", "ids[2]"}
    with refused(CODE.NOT_FOUND, "NOT_FOUND") as refusal:
        await compare(harness, made.id, other.id, bearer=BOB)
    assert made.id in refusal.message
