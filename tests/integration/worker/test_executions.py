"""Executions through the API, real worker hosts and real crew processes."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from a2a.types import a2a_pb2 as a2a
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict

from coxswain.memory.v1 import memory_pb2, record_pb2
from coxswain.models.v1 import usage_pb2
from coxswain.orchestrator.v1 import a2a_pb2, crew_pb2, execution_pb2
from tests.integration.orchestrator.a2a_support import agent, sending, state
from tests.integration.worker.installation import (
    CAPABLE,
    REASONER,
    WAIT_SECONDS,
    Installation,
    alive,
    is_kind,
    kinds,
)
from tests.support.child_process import ROOT, freeze
from tests.support.harness import BOB
from tests.support.llm_script import Fault, Reply, ToolCall
from tests.support.waiting import longer, until

S = execution_pb2


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def installation(clean: Installation) -> Installation:
    """Two hosts."""
    await clean.hosts(2)
    return clean


def crew(*tasks: crew_pb2.TaskSpec, name: str = "brief", **fields: Any) -> crew_pb2.CrewSpec:
    return crew_pb2.CrewSpec(
        name=name,
        agents=fields.pop("agents", None)
        or [
            crew_pb2.AgentSpec(name="reader", role="Reader", goal="Read closely"),
            crew_pb2.AgentSpec(name="writer", role="Writer", goal="Write well"),
        ],
        tasks=tasks,
        model=fields.pop("model", CAPABLE),
        **fields,
    )


def task(name: str, description: str, agent: str = "reader", **fields: Any) -> crew_pb2.TaskSpec:
    return crew_pb2.TaskSpec(name=name, description=description, expected_output="Words", agent=agent, **fields)


THREE = (
    task("first", "Do the first thing."),
    task("second", "Do the second thing.", "writer"),
    task("third", "Do the third thing."),
)


def answer_by_task(installation: Installation, **second: Any) -> None:
    """The first and the third task are answered at once, the second as told."""
    installation.llm.on(Reply(text="First done."), last_contains="Do the first thing.")
    installation.llm.on(Reply(**{"text": "Second done.", **second}), last_contains="Do the second thing.", times=1)
    installation.llm.on(Reply(text="Second done again."), last_contains="Do the second thing.")
    installation.llm.on(Reply(text="Third done."), last_contains="Do the third thing.")


def asked(installation: Installation, words: str) -> int:
    """How often the upstream was asked for a task."""
    return sum(words in str(call.body["messages"][-1]) for call in installation.llm.calls_where(route="chat"))


async def test_an_execution_runs_from_the_api_to_its_result(installation: Installation) -> None:
    installation.llm.on(Reply(chunks=["Ships ", "float."]), last_contains="Read about ships")
    installation.llm.on(Reply(text="A brief."), last_contains="Write about ships")
    spec = crew(task("read", "Read about {topic}."), task("write", "Write about {topic}.", "writer"))
    execution = await installation.start(spec, inputs={"topic": "ships"})
    events = await installation.watch(execution.id)
    ended = await installation.get(execution.id)
    assert ended.state == S.EXECUTION_STATE_SUCCEEDED
    assert ended.result.text == "A brief."
    assert ended.claims == 1
    assert (ended.usage.llm_calls, ended.usage.input_tokens > 0, ended.usage.cost > 0) == (2, True, True)
    assert [event.sequence for event in events] == sorted({event.sequence for event in events})
    happened = [kind for kind in kinds(events) if kind != "llm_chunk"]
    assert happened == [
        "execution_queued",
        "execution_started",
        "task_started",
        "llm_call_started",
        "llm_call_completed",
        "task_completed",
        "task_started",
        "llm_call_started",
        "llm_call_completed",
        "task_completed",
        "execution_succeeded",
    ]
    chunks = [event.llm_chunk for event in events if event.WhichOneof("event") == "llm_chunk"]
    first_call = next(
        event.llm_call_started.call_id for event in events if event.WhichOneof("event") == "llm_call_started"
    )
    assert "".join(chunk.text for chunk in chunks if chunk.call_id == first_call) == "Ships float."
    tasks = await installation.tasks(execution.id)
    assert [(run.task_name, run.state, run.attempt, run.output.text) for run in tasks] == [
        ("read", S.TASK_STATE_SUCCEEDED, 1, "Ships float."),
        ("write", S.TASK_STATE_SUCCEEDED, 1, "A brief."),
    ]
    assert events[2].task_started.agent_role == "Reader"
    # The second task was given the first one's result.
    assert "Ships float." in str(installation.llm.calls[-1].body["messages"][-1])


async def test_what_a_crew_used_is_summed_by_its_name(lone: Installation) -> None:
    lone.llm.on(Reply(text="Done."), last_contains="Count what is used")
    execution = await lone.start(crew(task("count", "Count what is used."), name="thrifty"))
    await lone.watch(execution.id)
    ended = await lone.get(execution.id)
    groupings = [usage_pb2.USAGE_GROUPING_CREW, usage_pb2.USAGE_GROUPING_EXECUTION, usage_pb2.USAGE_GROUPING_SUBJECT]
    used = await lone.usage().QueryUsage(usage_pb2.QueryUsageRequest(group_by=groupings, crew=ended.crew_name))
    [row] = used.rows
    assert (row.crew, row.execution_id, row.subject) == (ended.crew_name, execution.id, "dev|alice")
    assert (row.calls, row.input_tokens) == (ended.usage.llm_calls, ended.usage.input_tokens)
    assert row.cost == pytest.approx(ended.usage.cost)


async def test_a_crews_temperature_does_not_stop_a_model_that_takes_none(lone: Installation) -> None:
    lone.llm.on(Reply(text="Ships float."), last_contains="Read about ships")
    cool = crew_pb2.AgentSpec(name="reader", role="Reader", goal="Read closely", temperature=0.2)
    for model in (REASONER, CAPABLE):
        execution = await lone.start(crew(task("read", "Read about ships."), agents=[cool], model=model))
        await lone.watch(execution.id)
        assert (await lone.get(execution.id)).state == S.EXECUTION_STATE_SUCCEEDED
    sent = [call.body.get("temperature") for call in lone.llm.calls_where(route="chat")]
    assert sent == [None, 0.2]


async def test_memory_is_kept_for_the_next_execution_of_the_same_crew(installation: Installation) -> None:
    installation.llm.on(Reply(text="The keel is long."))
    spec = crew(task("read", "Read about keels."), memory=crew_pb2.MemorySpec(enabled=True))
    first = await installation.start(spec)
    assert (await installation.finished(first.id)).state == S.EXECUTION_STATE_SUCCEEDED
    again = await installation.executions().StartExecution(execution_pb2.StartExecutionRequest(crew_id=first.crew_id))
    await installation.finished(again.execution.id)
    first_call, *_, second_call = installation.llm.calls_where(route="chat")
    assert "The keel is long." not in str(first_call.body)
    assert "The keel is long." in str(second_call.body)


async def test_a_crew_that_runs_again_on_one_input_has_the_memories_of_one_run(installation: Installation) -> None:
    installation.llm.on(Reply(text="The rudder is broad."))
    spec = crew(task("read", "Read about rudders."), memory=crew_pb2.MemorySpec(enabled=True))
    first = await installation.start(spec)
    await installation.finished(first.id)
    for _ in range(9):
        request = execution_pb2.StartExecutionRequest(crew_id=first.crew_id)
        again = (await installation.executions().StartExecution(request)).execution
        assert (await installation.finished(again.id)).state == S.EXECUTION_STATE_SUCCEEDED
    stored = await installation.crews().GetCrew(crew_pb2.GetCrewRequest(id=first.crew_id))
    namespace = memory_pb2.Namespace(memory_id=stored.crew.memory_id)
    found = await installation.memory().SearchRecords(
        memory_pb2.SearchRecordsRequest(namespace=namespace, text="the rudder", limit=50)
    )
    assert [result.record.unified.content for result in found.results] == ["The rudder is broad."]
    assert str(installation.llm.calls_where(route="chat")[-1].body).count("The rudder is broad.") == 1


async def test_a_model_consolidates_memories_where_the_crew_asks_for_it(lone: Installation) -> None:
    lone.llm.on(Reply(text="The anchor weighs one ton."), last_contains="Read about anchors.")
    memory = crew_pb2.MemorySpec(enabled=True, consolidation=crew_pb2.ConsolidationSpec(similarity=0.1))
    first = await lone.finished((await lone.start(crew(task("read", "Read about anchors."), memory=memory))).id)
    assert first.usage.llm_calls == 1
    memory_id = (await lone.crews().GetCrew(crew_pb2.GetCrewRequest(id=first.crew_id))).crew.memory_id
    listing = memory_pb2.ListRecordsRequest(namespace=memory_pb2.Namespace(memory_id=memory_id))
    [record] = (await lone.memory().ListRecords(listing)).records
    merged = "The anchor weighs two tons; it was thought to weigh one."
    action = {"action": "update", "record_id": record.id, "new_content": merged}
    lone.llm.clear_rules()
    lone.llm.on(Reply(text="The anchor weighs two tons."), last_contains="Read about anchors.")
    plan = {"actions": [action], "insert_new": False}
    lone.llm.on(Reply(text=json.dumps(plan)), last_contains="New content to consider storing")
    request = execution_pb2.StartExecutionRequest(crew_id=first.crew_id)
    again = await lone.finished((await lone.executions().StartExecution(request)).execution.id)
    assert (again.state, again.usage.llm_calls) == (S.EXECUTION_STATE_SUCCEEDED, 2)
    [kept] = (await lone.memory().ListRecords(listing)).records
    assert (kept.id, kept.unified.content, kept.revision) == (record.id, merged, 2)


async def test_a_model_named_for_one_execution_does_not_part_it_from_the_memories_of_its_crew(
    installation: Installation,
) -> None:
    installation.llm.on(Reply(text="The mast is tall."))
    spec = crew(task("read", "Read about masts."), memory=crew_pb2.MemorySpec(enabled=True), model="")
    first = await installation.start(spec, model=CAPABLE)
    assert (await installation.finished(first.id)).state == S.EXECUTION_STATE_SUCCEEDED
    asked = memory_pb2.DeriveMemoryIdRequest(
        agent_roles=[agent.role for agent in spec.agents],
        task_names=[task.name for task in spec.tasks],
        crew_name=spec.name,
    )
    memory_id = (await installation.memory().DeriveMemoryId(asked)).memory_id
    kept = await installation.memory().CountRecords(
        memory_pb2.CountRecordsRequest(namespace=memory_pb2.Namespace(memory_id=memory_id))
    )
    assert kept.count == 1


async def test_agents_look_things_up_in_memories_of_their_group_alone(installation: Installation) -> None:
    def document(content: str) -> memory_pb2.SaveRecordsRequest:
        namespace = memory_pb2.Namespace(kind=record_pb2.MEMORY_KIND_DOCUMENT)
        record = record_pb2.Record(document=record_pb2.DocumentRecord(content=content, title="Manual"))
        return memory_pb2.SaveRecordsRequest(namespace=namespace, records=[record])

    def note(content: str, scope: str) -> memory_pb2.SaveRecordsRequest:
        record = record_pb2.Record(unified=record_pb2.UnifiedRecord(content=content, scope=scope))
        return memory_pb2.SaveRecordsRequest(namespace=memory_pb2.Namespace(memory_id="handbook"), records=[record])

    await installation.memory().SaveRecords(document("The lamp of the tower burns whale oil."))
    await installation.memory().SaveRecords(note("The lamp of the tower is lit at dusk.", "/rules/light"))
    await installation.memory().SaveRecords(note("The lamp of the tower was dear.", "/bills"))
    await installation.memory(BOB).SaveRecords(document("The lamp of the tower burns gas."))
    await installation.memory(BOB).SaveRecords(note("The lamp of the tower is lit at noon.", "/rules"))
    installation.llm.on(Reply(text="Whale oil."), contains="burns whale oil")
    spec = crew(task("read", "What does the lamp of the tower burn?"))
    spec.knowledge.add(name="manual").memory.kind = record_pb2.MEMORY_KIND_DOCUMENT
    spec.agents[0].knowledge.add(name="rules").memory.CopyFrom(
        crew_pb2.KnowledgeMemory(memory_id="handbook", scope="/rules")
    )
    spec.agents[0].knowledge.add(name="empty").memory.memory_id = "nobody wrote here"
    ended = await installation.finished((await installation.start(spec)).id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, "Whale oil.")
    (call,) = installation.llm.calls_where(route="chat")
    assert "is lit at dusk" in str(call.body)
    assert not any(words in str(call.body) for words in ("burns gas", "at noon", "was dear"))

    # What is saved later is found by the next execution; what is gone is found no more.
    await installation.memory().ClearNamespace(
        memory_pb2.ClearNamespaceRequest(namespace=memory_pb2.Namespace(memory_id="handbook"))
    )
    again = await installation.executions().StartExecution(
        execution_pb2.StartExecutionRequest(crew_id=ended.crew_id, request_id="again")
    )
    assert (await installation.finished(again.execution.id)).state == S.EXECUTION_STATE_SUCCEEDED
    assert "is lit at dusk" not in str(installation.llm.calls_where(route="chat")[-1].body)


async def test_tools_and_delegation_run_in_a_hierarchical_crew(installation: Installation) -> None:
    delegate = ToolCall(
        name="delegate_work_to_coworker",
        arguments={"task": "Work out 6*7", "context": "none", "coworker": "Reader"},
    )
    llm = installation.llm
    llm.on(Reply(tool_calls=[delegate]), contains="You are Crew Manager", times=1)
    llm.on(
        Reply(tool_calls=[ToolCall(name="calculator", arguments={"expression": "6*7"})]),
        offers_tool="calculator",
        times=1,
    )
    llm.on(Reply(text="It is 42."), contains="You are Reader")
    llm.on(Reply(text="The answer is 42."), contains="You are Crew Manager")
    reader = crew_pb2.AgentSpec(name="reader", role="Reader", goal="Read", tools=[crew_pb2.ToolSpec(name="calculator")])
    spec = crew(task("work", "Find the answer.", agent=""), agents=[reader], process=crew_pb2.PROCESS_HIERARCHICAL)
    execution = await installation.start(spec)
    events = await installation.watch(execution.id)
    assert (await installation.get(execution.id)).result.text == "The answer is 42."
    used = [event.tool_call_completed for event in events if event.WhichOneof("event") == "tool_call_completed"]
    assert [(tool.tool_name, tool.output) for tool in used] == [
        ("calculator", "42"),
        ("delegate_work_to_coworker", "It is 42."),
    ]


async def test_asynchronous_tasks_run_beside_each_other(installation: Installation) -> None:
    installation.llm.on(Reply(text="One.", hang=True), last_contains="Do one.")
    installation.llm.on(Reply(text="Two.", hang=True), last_contains="Do two.")
    installation.llm.on(Reply(text="Both."), last_contains="Join them.")
    spec = crew(
        task("one", "Do one.", async_execution=True),
        task("two", "Do two.", "writer", async_execution=True),
        task("join", "Join them."),
    )
    execution = await installation.start(spec)
    await installation.llm.wait_for_calls(2, hanging=True)
    installation.llm.release()
    assert (await installation.finished(execution.id)).result.text == "Both."
    joined = str(installation.llm.calls[-1].body["messages"][-1])
    assert joined.index("One.") < joined.index("Two.")


async def test_a_host_that_was_stopped_and_woken_changes_no_row(installation: Installation) -> None:
    answer_by_task(installation, hang=True)
    execution = await installation.start(crew(*THREE))
    await installation.llm.wait_for_calls(1, hanging=True)
    zombie = await installation.holder()
    freeze(psutil.Process(zombie.pid), Path(installation.database.url.database or ""))
    ended = await installation.finished(execution.id)
    assert ended.state == S.EXECUTION_STATE_SUCCEEDED
    before = await installation.rows(execution.id)
    events = await installation.watch(execution.id)
    crew_processes = zombie.crew_processes()
    zombie.send(signal.SIGCONT)
    installation.llm.release()
    # It notices that it has slept through its lease: its crew process ends, its fork server stays.
    await until(lambda: not any(alive(pid) for pid in crew_processes))
    # It works on as before.
    later = await installation.start(crew(*THREE, name="later"))
    assert (await installation.finished(later.id)).state == S.EXECUTION_STATE_SUCCEEDED
    assert await installation.rows(execution.id) == before
    assert await installation.watch(execution.id) == events


async def test_cancelling_ends_a_hanging_model_call_and_keeps_what_is_finished(installation: Installation) -> None:
    answer_by_task(installation, hang=True)
    execution = await installation.start(crew(*THREE))
    (hanging,) = await installation.llm.wait_for_calls(1, hanging=True)
    worker = await installation.holder()
    await installation.executions().CancelExecution(execution_pb2.CancelExecutionRequest(id=execution.id))
    ended = await installation.finished(execution.id)
    assert ended.state == S.EXECUTION_STATE_CANCELLED
    tasks = await installation.tasks(execution.id)
    assert [(run.state, run.output.text) for run in tasks] == [
        (S.TASK_STATE_SUCCEEDED, "First done."),
        (S.TASK_STATE_CANCELLED, ""),
        (S.TASK_STATE_CANCELLED, ""),
    ]
    await until(lambda: hanging.client_disconnected)
    await until(lambda: not worker.crew_processes())


async def test_an_execution_past_its_timeout_fails_and_says_so(installation: Installation) -> None:
    installation.llm.on(Reply(text="First done."), last_contains="Do the first thing.")
    # Every time: a host without CPU loses its lease, and the next one asks again.
    installation.llm.on(Reply(hang=True), last_contains="Do the second thing.")
    for seconds in longer(2):
        execution = await installation.start(crew(*THREE), timeout=Duration(seconds=int(seconds)))
        ended = await installation.finished(execution.id)
        assert ended.state == S.EXECUTION_STATE_FAILED
        assert ended.error.reason == "EXECUTION_TIMEOUT"
        # On a busy machine the time may be over before the second task.
        if asked(installation, "Do the second thing."):
            break


async def test_a_crew_of_the_offline_model_without_a_text_fails_and_asks_for_one(installation: Installation) -> None:
    read = task("read", "Find the key statements of the text: what changed, and why.\n\n{text}")
    execution = await installation.start(crew(read, model="offline/extract"), inputs={"text": ""})
    ended = await installation.finished(execution.id)
    assert ended.state == S.EXECUTION_STATE_FAILED
    assert "give the crew an input with the text" in ended.error.message
    said = "The lamp was lit every evening."
    execution = await installation.start(crew(read, model="offline/extract"), inputs={"text": said})
    ended = await installation.finished(execution.id)
    assert ended.result.text == said, "nothing of the instructions"


async def test_a_failed_execution_resumed_does_only_what_is_not_done(installation: Installation) -> None:
    llm = installation.llm
    llm.on(Reply(text="First done."), last_contains="Do the first thing.")
    llm.on(Reply(fault=Fault(status=400)), last_contains="Do the second thing.", times=1)
    llm.on(Reply(text="Second done."), last_contains="Do the second thing.")
    llm.on(Reply(text="Third done."), last_contains="Do the third thing.")
    execution = await installation.start(crew(*THREE))
    failed = await installation.finished(execution.id)
    assert failed.state == S.EXECUTION_STATE_FAILED
    assert failed.error.task_name == "second"
    assert failed.error.message
    resumed = await installation.executions().ResumeExecution(execution_pb2.ResumeExecutionRequest(id=execution.id))
    ended = await installation.finished(resumed.execution.id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, "Third done.")
    assert asked(installation, "Do the first thing.") == 1


async def test_a_crew_process_that_dies_is_replaced(installation: Installation) -> None:
    answer_by_task(installation, hang=True)
    execution = await installation.start(crew(*THREE))
    await installation.llm.wait_for_calls(1, hanging=True)
    worker = await installation.holder()
    os.kill(worker.crew_process, signal.SIGKILL)
    ended = await installation.finished(execution.id)
    assert (ended.state, ended.claims) == (S.EXECUTION_STATE_SUCCEEDED, 1)
    assert [run.attempt for run in await installation.tasks(execution.id)] == [1, 2, 1]


async def test_a_process_forked_ahead_that_died_costs_no_attempt(lone: Installation) -> None:
    hosts = await lone.hosts(1)
    answer_by_task(lone)

    def spares() -> list[int]:
        return [pid for host in hosts for pid in host.spare_processes]

    for _ in range(2):
        # Only a host that has just given away a spare one forks others.
        await until(lambda: bool(spares()))
        for pid in spares():
            os.kill(pid, signal.SIGKILL)
        execution = await lone.start(crew(*THREE))
        ended = await lone.finished(execution.id)
        assert (ended.state, ended.claims) == (S.EXECUTION_STATE_SUCCEEDED, 1)
        assert [run.attempt for run in await lone.tasks(execution.id)] == [1, 1, 1]
    await until(lambda: not any(host.crew_processes() for host in hosts))


async def test_planning_comes_before_the_first_task_and_costs_no_task(installation: Installation) -> None:
    plan = '{"list_of_plans_per_task": [{"task_number": 1, "task": "first", "plan": " Step by step."}]}'
    installation.llm.on(Reply(text=plan), contains="Task Execution Planner")
    answer_by_task(installation)
    execution = await installation.start(crew(*THREE, planning=True))
    ended = await installation.finished(execution.id)
    assert ended.state == S.EXECUTION_STATE_SUCCEEDED
    assert asked(installation, "Do the first thing. Step by step.") == 1
    assert len(await installation.tasks(execution.id)) == 3
    assert ended.usage.llm_calls == 4


async def test_a_resumed_execution_keeps_its_plan(installation: Installation) -> None:
    plan = '{"list_of_plans_per_task": [{"task_number": 2, "task": "second", "plan": " Step by step."}]}'
    installation.llm.on(Reply(text=plan), contains="Task Execution Planner")
    installation.llm.on(Reply(fault=Fault(status=400)), last_contains="Do the second thing.", times=1)
    answer_by_task(installation)
    failed = await installation.start(crew(*THREE, planning=True))
    assert (await installation.finished(failed.id)).state == S.EXECUTION_STATE_FAILED
    resumed = await installation.executions().ResumeExecution(execution_pb2.ResumeExecutionRequest(id=failed.id))
    events = await installation.watch(resumed.execution.id)
    ended = await installation.get(resumed.execution.id)
    assert ended.state == S.EXECUTION_STATE_SUCCEEDED
    assert list(events[0].execution_queued.task_names) == ["first", "second", "third"]
    assert asked(installation, "Do the second thing. Step by step.") == 2
    assert ended.usage.llm_calls == 2, "what is left of the tasks, and no new plan"


async def test_a_fork_server_that_dies_is_replaced(installation: Installation) -> None:
    answer_by_task(installation, hang=True)
    execution = await installation.start(crew(*THREE))
    await installation.llm.wait_for_calls(1, hanging=True)
    worker = await installation.holder()
    fork_server = worker.fork_server
    os.kill(fork_server, signal.SIGKILL)
    ended = await installation.finished(execution.id)
    assert (ended.state, ended.claims) == (S.EXECUTION_STATE_SUCCEEDED, 1)
    assert not alive(fork_server)


async def test_a_killed_hosts_execution_goes_on_elsewhere_and_asks_for_nothing_twice(
    installation: Installation,
) -> None:
    llm = installation.llm
    reckon = ToolCall(name="calculator", arguments={"expression": "6*7"})
    llm.on(Reply(text="First done."), last_contains="Do the first thing.")
    signed = {"type": "thinking", "thinking": "I reckon.", "signature": "sig"}
    llm.on(Reply(content_blocks=[signed], tool_calls=[reckon]), last_contains="Do the second thing.")
    llm.on(Reply(text="Never.", hang=True), last_role="tool", times=1)
    llm.on(Reply(text="It is 42."), last_role="tool")
    llm.on(Reply(text="Third done."), last_contains="Do the third thing.")
    writer = crew_pb2.AgentSpec(
        name="writer", role="Writer", goal="Write", tools=[crew_pb2.ToolSpec(name="calculator")]
    )
    reader = crew_pb2.AgentSpec(name="reader", role="Reader", goal="Read closely")
    execution = await installation.start(crew(*THREE, agents=[reader, writer]))
    await llm.wait_for_calls(1, hanging=True)
    # The answer before the hanging one is kept.
    await installation.watch(execution.id, is_kind("llm_call_completed", "second"))
    victim = await installation.holder()
    left_behind = victim.descendants()
    victim.kill()
    await victim.ended()
    ended = await installation.finished(execution.id)
    assert (ended.state, ended.claims) == (S.EXECUTION_STATE_SUCCEEDED, 2)
    tasks = await installation.tasks(execution.id)
    assert [(run.attempt, run.output.text) for run in tasks] == [
        (1, "First done."),
        (2, "It is 42."),
        (1, "Third done."),
    ]
    events = await installation.watch(execution.id)
    started = [event.execution_started for event in events if is_kind("execution_started")(event)]
    assert [(claim.claim, claim.takeover) for claim in started] == [(1, False), (2, True)]
    # The finished task ran once, and what the unfinished one had been told already it was told again from the journal.
    assert asked(installation, "Do the first thing.") == 1
    replayed = [event.llm_call_completed.replayed for event in events if is_kind("llm_call_completed")(event)]
    assert replayed == [False, False, True, False, False]
    assert len(llm.calls_where(route="chat")) == 5
    assert ended.usage.llm_calls == 4
    # What the model wants back with its tool call it gets from both hosts.
    told = [call.body["messages"] for call in llm.calls if call.body["messages"][-1]["role"] == "tool"]
    assert [messages[-2]["content"] for messages in told] == [[signed], [signed]]
    # Nothing of the dead host goes on.
    await until(lambda: not any(alive(pid) for pid in left_behind))


async def test_a_draining_host_hands_over_what_does_not_end_in_time(installation: Installation) -> None:
    answer_by_task(installation, hang=True)
    execution = await installation.start(crew(*THREE))
    await installation.llm.wait_for_calls(1, hanging=True)
    leaving = await installation.holder()
    leaving.send(signal.SIGTERM)
    assert await leaving.ended() == 0
    ended = await installation.finished(execution.id)
    assert ended.state == S.EXECUTION_STATE_SUCCEEDED
    assert asked(installation, "Do the first thing.") == 1


async def test_a_draining_host_lets_what_runs_end(lone: Installation) -> None:
    for idle in await lone.hosts(0):
        idle.send(signal.SIGTERM)
        await idle.ended()
    # On a busy machine a short lease would end before the execution does, which would then be taken once more.
    leaving = await lone.worker(COXSWAIN_WORKER_DRAIN_SECONDS="100", COXSWAIN_WORKER_LEASE_SECONDS="60")
    answer_by_task(lone, hang=True)
    execution = await lone.start(crew(*THREE))
    await lone.llm.wait_for_calls(1, hanging=True)
    leaving.send(signal.SIGTERM)
    lone.llm.release()
    ended = await lone.finished(execution.id)
    assert (ended.state, ended.claims) == (S.EXECUTION_STATE_SUCCEEDED, 1)
    assert await leaving.ended() == 0


async def test_all_hosts_killed_and_one_started_anew_goes_on(lone: Installation) -> None:
    answer_by_task(lone, hang=True)
    execution = await lone.start(crew(*THREE))
    await lone.llm.wait_for_calls(1, hanging=True)
    before = asked(lone, "Do the first thing.")
    for victim in lone.workers:
        victim.kill()
        await victim.ended()
    await lone.hosts(1)
    ended = await lone.finished(execution.id)
    assert ended.state == S.EXECUTION_STATE_SUCCEEDED
    assert asked(lone, "Do the first thing.") == before


async def test_a_stream_of_an_agent_loses_and_doubles_nothing_when_its_host_is_killed(
    lone: Installation,
) -> None:
    answer_by_task(lone, hang=True)
    first = task("first", "Do the first thing. {text}")
    spec = crew(first, *THREE[1:], name="followed", a2a=a2a_pb2.A2ASpec(published=True, all_results=True))
    await lone.crews().CreateCrew(crew_pb2.CreateCrewRequest(spec=spec))
    (publication,) = (await lone.crews().ListPublications(a2a_pb2.ListPublicationsRequest())).publications
    stub = agent(lone.harness)
    stream = stub.SendStreamingMessage(sending("Go.", tenant=publication.tenant, data=None, configuration={}))
    begun = (await stream.read()).task
    async with asyncio.timeout(WAIT_SECONDS):
        told = [await stream.read() for _ in range(3)]
        await lone.llm.wait_for_calls(1, hanging=True)
        for victim in lone.workers:
            victim.kill()
            await victim.ended()
        await lone.hosts(1)
        told += [response async for response in stream]
    seen = [
        (one.artifact_update.artifact.artifact_id, one.artifact_update.artifact.parts[0].text)
        if one.HasField("artifact_update")
        else (state(one.status_update), MessageToDict(one.status_update.metadata).get("coxswain/attempt", 0))
        for one in told
    ]
    assert seen == [
        ("WORKING", 1),
        ("first", "First done."),
        ("WORKING", 1),
        # It goes on elsewhere, and then the task itself.
        ("WORKING", 0),
        ("WORKING", 2),
        ("second", "Second done again."),
        ("WORKING", 1),
        ("result", "Third done."),
        ("COMPLETED", 0),
    ]
    after = str(int(told[2].status_update.metadata["coxswain/sequence"]))
    resuming = agent(lone.harness, a2a_extensions="https://example.com/coxswain/a2a/resume/v1", x_after_sequence=after)
    again = resuming.SubscribeToTask(a2a.SubscribeToTaskRequest(id=begun.id))
    assert [response async for response in again] == told[3:]
    ended = await stub.GetTask(a2a.GetTaskRequest(id=begun.id))
    assert list(ended.artifacts) == [one.artifact_update.artifact for one in told if one.HasField("artifact_update")]
    assert asked(lone, "Do the first thing.") == 1


async def test_a_host_that_requires_what_its_kernel_lacks_does_not_start(installation: Installation) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.without_landlock", "services.orchestrator.worker"),
        env=installation.environment | {"COXSWAIN_WORKER_CONTAINMENT": "require"},
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    told = errors.decode().splitlines()[-1]
    assert told.startswith("worker cannot start: COXSWAIN_WORKER_CONTAINMENT=require")
    assert "file_rules" in told
