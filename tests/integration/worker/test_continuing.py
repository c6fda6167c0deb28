"""Executions that continue others, by real worker hosts and crew processes: only what changed is paid for."""

import json
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from coxswain.memory.v1 import memory_pb2, record_pb2
from coxswain.orchestrator.v1 import crew_pb2, execution_pb2
from tests.integration.worker.installation import CAPABLE, REASONER, UNMEASURED, Installation, is_kind, kinds
from tests.support.llm_script import Fault, Reply, ToolCall

S = execution_pb2
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "words": {"type": "integer"}},
    "required": ["title", "words"],
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


def crew(**fields: Any) -> crew_pb2.CrewSpec:
    """Three tasks of two agents; each gets all results before it."""
    return crew_pb2.CrewSpec(
        name="brief",
        model=CAPABLE,
        agents=[
            crew_pb2.AgentSpec(name="reader", role="Reader", goal="Read"),
            crew_pb2.AgentSpec(name="writer", role="Writer", goal="Write"),
        ],
        tasks=[
            crew_pb2.TaskSpec(name=name, description=f"Do the {name} thing.", expected_output="Words", agent=agent)
            for name, agent in (("first", "reader"), ("second", "writer"), ("third", "reader"))
        ],
        **fields,
    )


def models(lone: Installation) -> list[str]:
    """The models that were called, in order."""
    return [call.body["model"] for call in lone.llm.calls_where(route="chat")]


async def fork(lone: Installation, execution_id: str, **fields: Any) -> execution_pb2.Execution:
    """Fork an execution and wait for the end of the fork; the log of the upstream is of that alone."""
    lone.llm.clear_log()
    made = await lone.executions().ForkExecution(S.ForkExecutionRequest(id=execution_id, **fields))
    return await lone.finished(made.execution.id)


async def test_a_tool_that_has_run_is_not_run_again_by_a_resumed_execution(lone: Installation) -> None:
    for number in range(3):
        call = ToolCall(name="calculator", arguments={"expression": f"{number} + 1"})
        lone.llm.on(Reply(tool_calls=[call]), route="chat", times=1)
    lone.llm.on(Reply(fault=Fault(status=400)), route="chat", times=1)
    lone.llm.on(Reply(text="All is worked out."), route="chat")
    spec = crew()
    del spec.tasks[1:]
    spec.agents[0].tools.add(name="calculator")
    failed = await lone.finished((await lone.start(spec)).id)
    assert (failed.state, len(models(lone))) == (S.EXECUTION_STATE_FAILED, 4)
    lone.llm.clear_log()
    resumed = await lone.executions().ResumeExecution(S.ResumeExecutionRequest(id=failed.id))
    ended = await lone.finished(resumed.execution.id)
    assert (ended.state, ended.usage.llm_calls, ended.usage.tool_calls) == (S.EXECUTION_STATE_SUCCEEDED, 1, 0)
    assert len(models(lone)) == 1
    assert await lone.journaled_tools(ended.id) == 3


async def test_a_task_whose_model_refuses_goes_on_with_another_one(lone: Installation) -> None:
    lone.llm.on(Reply(fault=Fault(status=400, message="no such thing")), route="chat", model="unmeasured")
    lone.llm.on(Reply(text="Well done."), route="chat")
    spec = crew()
    spec.agents[1].model = UNMEASURED
    failed = await lone.finished((await lone.start(spec)).id)
    assert (failed.error.reason, failed.error.task_name) == ("UPSTREAM_REJECTED", "second")
    assert models(lone) == ["capable", "unmeasured"]
    lone.llm.clear_log()
    resumed = await lone.executions().ResumeExecution(S.ResumeExecutionRequest(id=failed.id, model=REASONER))
    ended = await lone.finished(resumed.execution.id)
    assert (ended.state, ended.model) == (S.EXECUTION_STATE_SUCCEEDED, REASONER)
    assert models(lone) == ["gpt-5", "gpt-5"]
    assert [task.copied for task in await lone.tasks(ended.id)] == [True, False, False]


async def test_a_fork_pays_for_what_changed_alone_and_so_does_a_fork_of_it(lone: Installation) -> None:
    lone.llm.on(Reply(text="Well done."), route="chat")
    spec = crew(memory=crew_pb2.MemorySpec(enabled=True))
    done = await lone.finished((await lone.start(spec)).id)
    assert done.state == S.EXECUTION_STATE_SUCCEEDED
    assert models(lone) == ["capable"] * 3
    memory_id = (await lone.crews().GetCrew(crew_pb2.GetCrewRequest(id=done.crew_id))).crew.memory_id

    async def memories() -> int:
        request = memory_pb2.CountRecordsRequest(namespace=memory_pb2.Namespace(memory_id=memory_id))
        return int((await lone.memory().CountRecords(request)).count)

    assert await memories() == 2, "the second and the third task have the same agent and the same result"
    lone.llm.clear_rules()
    lone.llm.on(Reply(text="Done anew."), route="chat")
    again = await fork(lone, done.id, from_task="third", model=REASONER)
    assert (again.state, again.usage.llm_calls) == (S.EXECUTION_STATE_SUCCEEDED, 1)
    assert models(lone) == ["gpt-5"]
    assert await memories() == 3, "a copied task stores nothing again"
    lone.llm.clear_rules()
    lone.llm.on(Reply(text="Well done."), route="chat")

    spec.agents[1].goal = "Write better"
    change = crew_pb2.UpdateCrewRequest(id=done.crew_id, spec=spec, update_mask=FieldMask(paths=["agents"]))
    await lone.crews().UpdateCrew(change)
    newer = await fork(lone, again.id, crew_revision=0, model="")
    assert (newer.crew_revision, newer.usage.llm_calls) == (2, 3), "they have another model"
    newest = await fork(lone, done.id, crew_revision=0)
    assert models(lone) == ["capable"] * 2
    assert [task.copied for task in await lone.tasks(newest.id)] == [True, False, False]
    events = await lone.watch(newest.id)
    assert [task.reuse for task in events[1].execution_continued.tasks] == [
        S.TASK_REUSE_COPIED,
        S.TASK_REUSE_DEFINITION_CHANGED,
        S.TASK_REUSE_CONTEXT_CHANGED,
    ]


async def test_a_plan_goes_along(lone: Installation) -> None:
    plan = '{"list_of_plans_per_task": [{"task_number": 2, "task": "second", "plan": " Think first."}]}'
    lone.llm.on(Reply(text=plan), route="chat", contains="planner")
    lone.llm.on(Reply(text=plan), route="chat", contains="Planner")
    lone.llm.on(Reply(text="Well done."), route="chat")
    done = await lone.finished((await lone.start(crew(planning=True))).id)
    assert (done.state, done.usage.llm_calls) == (S.EXECUTION_STATE_SUCCEEDED, 4), done.error
    again = await fork(lone, done.id, from_task="second")
    assert again.usage.llm_calls == 2
    assert "Think first." in str(lone.llm.calls_where(route="chat")[0].body)


async def test_a_result_that_nobody_approved_is_asked_about_again_without_paying(lone: Installation) -> None:
    lone.llm.on(Reply(text="Well done."), route="chat")
    spec = crew()
    spec.tasks[1].human_approval = True
    asked = await lone.start(spec)
    await lone.watch(asked.id, is_kind("execution_parked"))
    await lone.executions().CancelExecution(S.CancelExecutionRequest(id=asked.id))
    await lone.finished(asked.id)
    lone.llm.clear_log()
    resumed = (await lone.executions().ResumeExecution(S.ResumeExecutionRequest(id=asked.id))).execution
    events = await lone.watch(resumed.id, is_kind("execution_parked"))
    assert "question_raised" in kinds(events)
    assert not models(lone)
    await lone.executions().CancelExecution(S.CancelExecutionRequest(id=resumed.id))


async def test_what_was_used_counts_against_the_limits_of_a_resumed_execution_alone(lone: Installation) -> None:
    lone.llm.on(Reply(text="Well done."), route="chat")
    limited = await lone.finished((await lone.start(crew(limits=crew_pb2.ExecutionLimits(max_model_calls=2)))).id)
    assert limited.error.reason == "EXECUTION_LIMIT_REACHED"
    resumed = await lone.executions().ResumeExecution(S.ResumeExecutionRequest(id=limited.id))
    assert (await lone.finished(resumed.execution.id)).error.reason == "EXECUTION_LIMIT_REACHED"
    forked = await fork(lone, limited.id)
    assert (forked.state, forked.usage.llm_calls) == (S.EXECUTION_STATE_SUCCEEDED, 1)


async def test_a_retry_of_a_task_repeats_neither_its_tools_nor_what_its_host_had_asked(lone: Installation) -> None:
    call = ToolCall(name="calculator", arguments={"expression": "1 + 2"})
    lone.llm.on(Reply(tool_calls=[call]), route="chat", last_role="user")
    lone.llm.on(Reply(text="3"), route="chat", times=1)
    lone.llm.on(Reply(text="It is 3.", hang=True), route="chat", times=1)
    lone.llm.on(Reply(text="It is 3."), route="chat")
    spec = crew()
    del spec.tasks[1:]
    spec.agents[0].tools.add(name="calculator")
    spec.tasks[0].checks.add(matches="^It is")
    await lone.hosts(2)
    execution = await lone.start(spec)
    await lone.llm.wait_for_calls(1, hanging=True)
    assert len(models(lone)) == 4, "a tool and an answer, and the same again with what was wrong"
    victim = await lone.holder()
    victim.kill()
    await victim.ended()
    ended = await lone.finished(execution.id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, "It is 3.")
    assert len(models(lone)) == 5, "only the call that had no answer"
    assert (await lone.journaled_tools(execution.id), ended.usage.tool_calls, ended.usage.llm_calls) == (1, 1, 4)


async def test_a_fork_survives_its_host_and_repeats_nothing(lone: Installation) -> None:
    lone.llm.on(Reply(text="Well done."), route="chat")
    done = await lone.finished((await lone.start(crew())).id)
    await lone.hosts(2)
    lone.llm.clear_rules()
    lone.llm.clear_log()
    lone.llm.on(Reply(text="Better.", hang=True), route="chat", contains="Do the third thing.", times=1)
    lone.llm.on(Reply(text="Better."), route="chat")
    made = await lone.executions().ForkExecution(S.ForkExecutionRequest(id=done.id, from_task="second"))
    await lone.llm.wait_for_calls(1, hanging=True)
    await lone.task_started(made.execution.id, "third")
    victim = await lone.holder()
    victim.kill()
    await victim.ended()
    ended = await lone.finished(made.execution.id)
    assert (ended.state, ended.result.text, ended.claims) == (S.EXECUTION_STATE_SUCCEEDED, "Better.", 2)
    assert [task.attempt for task in await lone.tasks(ended.id)] == [0, 1, 2]
    assert len(models(lone)) == 3, "the second task once, the third until it was answered"
    assert kinds(await lone.watch(ended.id)).count("task_completed") == 2
    assert not any(map(is_kind("task_started", "first"), await lone.watch(ended.id)))


async def test_results_are_files_and_a_copied_one_is_not_paid_for_to_be_renamed(lone: Installation) -> None:
    lone.llm.on(Reply(text='{"title": "Ships", "words": 3}'), route="chat", contains="second thing", times=1)
    lone.llm.on(Reply(text="Well done: {not an input}."), route="chat")
    spec = crew()
    for task, name in zip(spec.tasks, ("{day}/first.md", "second.json", "{day}/first.md"), strict=True):
        task.output_file = name
    spec.tasks[1].output_schema.update(SCHEMA)
    done = await lone.finished((await lone.start(spec, inputs={"day": "Monday"})).id)
    assert done.state == S.EXECUTION_STATE_SUCCEEDED, done.error
    files = await lone.files(done.id)
    assert json.loads(files.pop("second.json")) == {"title": "Ships", "words": 3}
    assert files == {"Monday/first.md": b"Well done: {not an input}."}
    events = await lone.watch(done.id)
    stored = [event for event in events if event.WhichOneof("event") == "artifact_stored"]
    assert [(event.task_name, event.artifact_stored.name, event.artifact_stored.revision) for event in stored] == [
        ("first", "Monday/first.md", 1),
        ("second", "second.json", 1),
        ("third", "Monday/first.md", 2),
    ]
    assert [task.output_artifact for task in await lone.tasks(done.id)] == [
        "Monday/first.md",
        "second.json",
        "Monday/first.md",
    ]
    again = await fork(lone, done.id, from_task="third", inputs={"day": Value(string_value="Tuesday")})
    assert (again.state, again.usage.llm_calls) == (S.EXECUTION_STATE_SUCCEEDED, 1)
    assert sorted(await lone.files(again.id)) == ["Tuesday/first.md", "second.json"]


def tool_calls(lone: Installation, *calls: ToolCall) -> None:
    """Have the model call tools one after the other, once, and then answer."""
    for call in calls:
        lone.llm.on(Reply(tool_calls=[call]), route="chat", times=1)
    lone.llm.on(Reply(text="Well done."), route="chat")


async def test_what_agents_have_written_goes_along_with_their_tasks(lone: Installation) -> None:
    tool_calls(
        lone,
        ToolCall(name="file_write", arguments={"name": "notes/a.md", "content": "First notes."}),
        ToolCall(name="file_write", arguments={"name": "../a.md", "content": "x"}),
        ToolCall(name="file_list", arguments={}),
        ToolCall(name="file_read", arguments={"name": "notes/a.md"}),
    )
    spec = crew()
    for name in ("file_write", "file_list", "file_read"):
        spec.tasks[0].tools.add(name=name)
    done = await lone.finished((await lone.start(spec)).id)
    assert (done.state, done.usage.tool_calls) == (S.EXECUTION_STATE_SUCCEEDED, 4), done.error
    assert await lone.files(done.id) == {"notes/a.md": b"First notes."}
    events = await lone.watch(done.id)
    ended = [event for event in events if event.WhichOneof("event") in {"tool_call_completed", "tool_call_failed"}]
    told = [event.tool_call_completed.output or event.tool_call_failed.message for event in ended]
    assert told[0] == 'stored "notes/a.md", 12 bytes'
    assert "relative path" in told[1]
    assert told[2:] == ["notes/a.md (text/markdown, 12 bytes)", "First notes."]
    again = await fork(lone, done.id, from_task="second")
    assert again.state == S.EXECUTION_STATE_SUCCEEDED
    assert await lone.files(again.id) == {"notes/a.md": b"First notes."}
    anew = await fork(lone, done.id, from_task="first")
    assert await lone.files(anew.id) == {}, "the model calls no tool this time"


async def test_a_result_whose_file_is_in_the_way_fails_its_task_and_is_not_paid_for_again(lone: Installation) -> None:
    tool_calls(lone, ToolCall(name="file_write", arguments={"name": "Report.md", "content": "Mine."}))
    spec = crew()
    spec.tasks[0].tools.add(name="file_write")
    spec.tasks[1].output_file = "report.md"
    failed = await lone.finished((await lone.start(spec)).id)
    assert (failed.state, failed.error.reason) == (S.EXECUTION_STATE_FAILED, "ARTIFACT_NAME_CONFLICT")
    assert "Report.md" in failed.error.message
    assert len(models(lone)) == 3
    lone.llm.clear_log()
    spec.tasks[1].output_file = "brief.md"
    change = crew_pb2.UpdateCrewRequest(id=failed.crew_id, spec=spec, update_mask=FieldMask(paths=["tasks"]))
    await lone.crews().UpdateCrew(change)
    resumed = await lone.executions().ResumeExecution(S.ResumeExecutionRequest(id=failed.id, crew_revision=0))
    ended = await lone.finished(resumed.execution.id)
    assert ended.state == S.EXECUTION_STATE_SUCCEEDED
    assert await lone.files(ended.id) == {"Report.md": b"Mine.", "brief.md": b"Well done."}
    assert len(models(lone)) == 1, "the third task alone"


async def test_agents_search_what_the_crew_remembers_and_the_documents_of_the_group(lone: Installation) -> None:
    texts = (
        ("The keeper of the light is Ann.", 2026, ()),
        ("The keeper of the harbour is Bob.", 2025, ()),
        ("The keeper of the books is Cid.", 2026, ("reader",)),
        ("The keeper of the secret is Dan.", 2026, ("writer",)),
    )
    save = memory_pb2.SaveRecordsRequest(namespace=memory_pb2.Namespace(kind=record_pb2.MEMORY_KIND_DOCUMENT))
    for text, year, readers in texts:
        document = record_pb2.DocumentRecord(content=text, agent_ids=readers)
        save.records.add(document=document).metadata.update({"year": year})
    await lone.memory().SaveRecords(save)
    lone.llm.on(Reply(text="The lamp burns whale oil."), route="chat")
    spec = crew(memory=crew_pb2.MemorySpec(enabled=True, name="tower"))
    del spec.tasks[1:]
    assert (await lone.finished((await lone.start(spec)).id)).state == S.EXECUTION_STATE_SUCCEEDED
    lone.llm.clear_rules()
    tool_calls(
        lone,
        ToolCall(name="memory_search", arguments={"query": "what does the lamp burn?"}),
        ToolCall(name="document_search", arguments={"query": "keeper", "metadata": {"year": 2026}, "limit": 3}),
    )
    spec.name = "tower"
    for name in ("memory_search", "document_search"):
        spec.tasks[0].tools.add(name=name)
    done = await lone.finished((await lone.start(spec)).id)
    assert done.state == S.EXECUTION_STATE_SUCCEEDED, done.error
    events = [event for event in await lone.watch(done.id) if event.WhichOneof("event") == "tool_call_completed"]
    remembered, documents = (json.loads(event.tool_call_completed.output) for event in events)
    assert "The lamp burns whale oil." in remembered[0]["content"]
    found = sorted(one["content"] for one in documents)
    assert found == ["The keeper of the books is Cid.", "The keeper of the light is Ann."]
