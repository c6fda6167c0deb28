"""What an execution promises to those who start, watch and cancel it, on both deployments."""

import json
import signal
from typing import Any

import grpc
import pytest

from coxswain.memory.v1.memory_pb2 import DeriveMemoryIdRequest, Namespace, SearchRecordsRequest
from coxswain.orchestrator.v1.crew_pb2 import (
    PROCESS_HIERARCHICAL,
    AgentSpec,
    CrewSpec,
    MemorySpec,
    ValidateCrewRequest,
)
from coxswain.orchestrator.v1.execution_pb2 import (
    CancelExecutionRequest,
    ListExecutionsRequest,
    ResumeExecutionRequest,
    TaskState,
)
from tests.e2e.support import (
    ALICE,
    CANCELLED,
    OFFLINE,
    SUCCEEDED,
    Scene,
    finish,
    get,
    kinds,
    outputs,
    refused,
    stored_sequences,
)
from tests.support.child_process import ChildProcess, scrubbed_environment
from tests.support.installation import Caller, Installation, busy_host, wait_gone, wait_until
from tests.support.llm_script import ToolCall

_WATCHER = """
import sys
from pathlib import Path
from coxswain.client import Client, Tls
tls = Tls(root_certificates=Path(sys.argv[4]).read_bytes()) if sys.argv[4] else False
with Client(sys.argv[1], token=sys.argv[2], tls=tls) as client:
    for event in client.watch(sys.argv[3]):
        print("event", event.sequence, flush=True)
"""


def test_a_crew_runs_from_its_document_to_its_result(scene: Scene, alice: Caller) -> None:
    scene.answers("gather", "Ships need ballast.")
    scene.answers("write", "Ballast keeps ships upright.")
    crew = scene.crew("gather", "write")
    crew.tasks[1].context.tasks.append("gather")

    execution = alice.orchestrator.run(crew)

    assert execution.state == SUCCEEDED
    assert execution.result.text == "Ballast keeps ships upright."
    assert execution.subject == "dev|alice"
    assert [run.output.text for run in outputs(alice.orchestrator, execution)] == [
        "Ships need ballast.",
        "Ballast keeps ships upright.",
    ]
    (call,) = scene.calls("write")
    assert "Ships need ballast." in json.dumps(call.body), "the second task is given the first one's result"
    assert call.bearer == "sk-emulated-0123456789"
    assert execution.usage.llm_calls == 2
    assert execution.usage.input_tokens > 0


def test_events_tell_the_whole_story_in_order(scene: Scene, alice: Caller) -> None:
    scene.answers("only", "One two three four five six.")

    events = finish(alice.orchestrator, alice.orchestrator.start(scene.crew("only")))

    happened = kinds(events)
    assert happened[0] == "execution_queued"
    assert happened[-1] == "execution_succeeded"
    in_order = ["execution_started", "task_started", "llm_call_started", "llm_call_completed", "task_completed"]
    assert [happened.index(kind) for kind in in_order] == sorted(happened.index(kind) for kind in in_order)
    completed = next(event for event in events if event.WhichOneof("event") == "llm_call_completed")
    assert completed.llm_call_completed.text == "One two three four five six."
    assert completed.task_name == "only"
    assert completed.attempt == 1
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))


def test_a_watcher_killed_mid_stream_goes_on_behind_its_last_event(
    scene: Scene, alice: Caller, installation: Installation
) -> None:
    scene.answers("first", "Done first.")
    scene.answers("second", "A long answer that comes piece by piece.", hang_after_chunks=3)
    execution = alice.orchestrator.start(scene.crew("first", "second"))
    authority = str(installation.authority or "")
    arguments = ["-c", _WATCHER, installation.address("orchestrator"), ALICE, execution.id, authority]
    environment = scrubbed_environment(installation.data_dir.parent)
    with ChildProcess("watcher", arguments, environment) as watcher:
        scene.wait_until_hanging("second")
        watcher.wait_for_line("event 4")
        watcher.signal(signal.SIGKILL)
        assert watcher.wait() == -signal.SIGKILL
        seen = [int(line.split()[1]) for line in watcher.lines if line.startswith("event ")]
    scene.llm.release()

    later = [event.sequence for event in finish(alice.orchestrator, execution, after_sequence=seen[-1])]

    assert later
    assert seen + later == sorted(set(seen + later)), "each event once, in order"
    assert set(stored_sequences(installation, execution)) <= set(seen + later), "no stored event is missed"
    assert get(alice.orchestrator, execution).last_sequence == later[-1]


def test_a_late_watcher_gets_every_stored_event(scene: Scene, alice: Caller, installation: Installation) -> None:
    scene.answers("only", "Some words.")
    execution = alice.orchestrator.run(scene.crew("only"))

    sequences = [event.sequence for event in finish(alice.orchestrator, execution)]

    assert sequences == stored_sequences(installation, execution)


def test_one_request_id_is_one_execution(scene: Scene, alice: Caller) -> None:
    scene.answers("only", "Once.")
    crew = alice.orchestrator.apply_crew(scene.crew("only")).crew

    first = alice.orchestrator.start(crew, {"n": 1}, request_id=scene.mark)
    finish(alice.orchestrator, first)
    again = alice.orchestrator.start(crew, {"n": 1}, request_id=scene.mark)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED") as refusal:
        alice.orchestrator.start(crew, {"n": 2}, request_id=scene.mark)

    assert again.id == first.id
    assert refusal.error.metadata["request_id"] == scene.mark
    listed = alice.orchestrator.executions.ListExecutions(ListExecutionsRequest(crew_id=crew.id)).executions
    assert [execution.id for execution in listed] == [first.id]
    assert len(scene.calls("only")) == 1


def test_cancelling_ends_a_model_call_and_keeps_what_was_done(
    scene: Scene, alice: Caller, installation: Installation
) -> None:
    scene.answers("first", "Kept.")
    scene.answers("second", "Never said.", hang=True)
    execution = alice.orchestrator.start(scene.crew("first", "second", "third"))
    scene.wait_until_hanging("second")
    _, crew_process = busy_host(installation)

    alice.orchestrator.executions.CancelExecution(CancelExecutionRequest(id=execution.id))
    events = finish(alice.orchestrator, execution)

    assert kinds(events)[-1] == "execution_cancelled"
    assert get(alice.orchestrator, execution).state == CANCELLED
    wait_gone([crew_process])
    wait_until(
        lambda: [call.outcome for call in scene.calls("second")] == ["client_disconnected"],
        "the model sees that nobody waits for its answer any more",
    )
    runs = outputs(alice.orchestrator, execution)
    assert [run.state for run in runs] == [
        TaskState.TASK_STATE_SUCCEEDED,
        TaskState.TASK_STATE_CANCELLED,
        TaskState.TASK_STATE_CANCELLED,
    ]
    assert runs[0].output.text == "Kept."
    assert not scene.calls("third")


def test_a_cancelled_execution_is_resumed_from_its_finished_tasks(scene: Scene, alice: Caller) -> None:
    scene.answers("first", "Kept.")
    scene.answers("second", "Never said.", hang=True, times=1)
    scene.answers("second", "Said at last.")
    execution = alice.orchestrator.start(scene.crew("first", "second"))
    scene.wait_until_hanging("second")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "EXECUTION_STATE"):
        alice.orchestrator.executions.ResumeExecution(ResumeExecutionRequest(id=execution.id))
    alice.orchestrator.executions.CancelExecution(CancelExecutionRequest(id=execution.id))
    finish(alice.orchestrator, execution)

    resumed = alice.orchestrator.executions.ResumeExecution(ResumeExecutionRequest(id=execution.id)).execution
    finish(alice.orchestrator, resumed)

    assert resumed.resumed_from == execution.id
    assert get(alice.orchestrator, resumed).result.text == "Said at last."
    assert [run.copied for run in outputs(alice.orchestrator, resumed)] == [True, False]
    assert len(scene.calls("first")) == 1


def test_an_agent_uses_a_tool_the_model_calls(scene: Scene, alice: Caller) -> None:
    scene.answers("sum", "It is 42.", last_role="tool")
    scene.answers("sum", tool=ToolCall(name="calculator", arguments={"expression": "6 * 7"}))
    crew = scene.crew("sum")
    crew.agents[0].tools.add(name="calculator")

    events = finish(alice.orchestrator, alice.orchestrator.start(crew))

    assert events[-1].execution_succeeded.result.text == "It is 42."
    first, second = scene.calls("sum")
    assert [tool["function"]["name"] for tool in first.body["tools"]] == ["calculator"]
    assert second.body["messages"][-1]["content"] == "42"
    completed = next(event.tool_call_completed for event in events if event.HasField("tool_call_completed"))
    assert (completed.tool_name, completed.output) == ("calculator", "42")
    assert kinds(events).count("tool_call_started") == 1


def test_an_agent_gives_work_to_another(scene: Scene, alice: Caller) -> None:
    scene.answers("inner", "Forty-two fathoms.")
    scene.answers("outer", "The depth is forty-two fathoms.", last_role="tool")
    scene.answers("outer", tool=_delegation(scene, "Sounder"))
    agents = [
        AgentSpec(name="mate", role="Mate", goal="Report the depth", allow_delegation=True),
        AgentSpec(name="sounder", role="Sounder", goal="Sound the depth"),
    ]

    execution = alice.orchestrator.run(scene.crew("outer", agents=agents))

    assert execution.result.text == "The depth is forty-two fathoms."
    (inner,) = scene.calls("inner", outcome="answered")[:1]
    assert len(scene.calls("outer")) == 2
    assert "Sounder" in json.dumps(inner.body["messages"]), "the other agent did the work"
    assert "Forty-two fathoms." in json.dumps(scene.calls("outer")[-1].body), "and its result came back"


def test_a_hierarchical_crew_is_led_by_its_manager(scene: Scene, alice: Caller) -> None:
    scene.answers("inner", "Forty-two fathoms.")
    scene.answers("outer", "Reported: forty-two fathoms.", last_role="tool")
    scene.answers("outer", tool=_delegation(scene, "Sounder"))
    agents = [
        AgentSpec(name="sounder", role="Sounder", goal="Sound the depth"),
        AgentSpec(name="cook", role="Cook", goal="Feed the crew"),
    ]
    crew = scene.crew("outer", agents=agents, process=PROCESS_HIERARCHICAL)
    crew.tasks[0].agent = ""

    execution = alice.orchestrator.run(crew)

    assert execution.result.text == "Reported: forty-two fathoms."
    manager = scene.calls("outer")[0]
    offered = {tool["function"]["name"] for tool in manager.body["tools"]}
    assert "delegate_work_to_coworker" in offered
    assert "Sounder" in json.dumps(manager.body["tools"])
    assert "Cook" in json.dumps(manager.body["tools"])


def _delegation(scene: Scene, coworker: str) -> ToolCall:
    arguments = {"task": f"Work on {scene.word('inner')}", "context": "At the bow", "coworker": coworker}
    return ToolCall(name="delegate_work_to_coworker", arguments=arguments)


def test_results_are_found_again_in_memory(scene: Scene, alice: Caller) -> None:
    scene.answers("survey", "The harbour entrance is forty-two fathoms deep at low tide.")
    crew = scene.crew("survey", memory=MemorySpec(enabled=True))
    alice.orchestrator.run(crew)

    memory_id = alice.memory.memory.DeriveMemoryId(_identity(crew)).memory_id
    found = alice.memory.memory.SearchRecords(
        SearchRecordsRequest(namespace=Namespace(memory_id=memory_id), text="depth of the water in the port")
    ).results

    assert [result.record.unified.content for result in found] == [
        "The harbour entrance is forty-two fathoms deep at low tide."
    ]


def test_a_later_run_is_reminded_of_an_earlier_one(scene: Scene, alice: Caller) -> None:
    scene.answers("survey", "The harbour entrance is forty-two fathoms deep.")
    crew = scene.crew("survey", memory=MemorySpec(enabled=True))
    crew.tasks[0].description = f"Find how deep the harbour entrance is. {scene.word('survey')}"
    alice.orchestrator.run(crew)

    alice.orchestrator.run(crew)

    before, after = scene.calls("survey")
    assert "forty-two fathoms" not in json.dumps(before.body)
    assert "forty-two fathoms" in json.dumps(after.body)


def test_a_character_no_database_can_hold_is_replaced_wherever_it_comes_from(scene: Scene, alice: Caller) -> None:
    scene.answers("counted", "One\0two.", last_role="tool")
    scene.answers("counted", tool=ToolCall(name="text_statistics", arguments={"text": "three\0four"}))
    scene.answers("shaped", '{"line": "five\\u0000six"}')
    crew = scene.crew("counted", "shaped", memory=MemorySpec(enabled=True))
    crew.agents[0].tools.add(name="text_statistics")
    crew.tasks[1].output_schema.update({"type": "object", "properties": {"line": {"type": "string"}}})

    execution = alice.orchestrator.run(crew)

    assert execution.state == SUCCEEDED
    counted, shaped = outputs(alice.orchestrator, execution)
    assert counted.output.text == "One\ufffdtwo."
    assert dict(shaped.output.structured) == {"line": "five\ufffdsix"}
    memory_id = alice.memory.memory.DeriveMemoryId(_identity(crew)).memory_id
    search = SearchRecordsRequest(namespace=Namespace(memory_id=memory_id), text="One two")
    found = [result.record.unified.content for result in alice.memory.memory.SearchRecords(search).results]
    assert "One\ufffdtwo." in found


def _identity(crew: CrewSpec) -> DeriveMemoryIdRequest:
    return DeriveMemoryIdRequest(
        agent_roles=[agent.role for agent in crew.agents],
        task_names=[task.name for task in crew.tasks],
        crew_name=crew.name,
        model=crew.model,
    )


def test_inputs_are_filled_in_and_asked_for(scene: Scene, alice: Caller) -> None:
    scene.answers("greet", "Hello.")
    crew = scene.crew("greet")
    crew.tasks[0].description += " for {who}"

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        alice.orchestrator.start(crew)
    alice.orchestrator.run(crew, {"who": "Ishmael {braces stay}"})

    assert refusal.fields == ["inputs.who"]
    assert "for Ishmael {braces stay}" in json.dumps(scene.calls("greet")[0].body)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param(lambda crew: crew.agents[0].tools.add(name="calculator"), "spec.agents[0].tools", id="tools"),
        pytest.param(
            lambda crew: setattr(crew.agents[0], "allow_delegation", True),
            "spec.agents[0].allow_delegation",
            id="delegation",
        ),
        pytest.param(lambda crew: setattr(crew, "process", PROCESS_HIERARCHICAL), "spec.process", id="hierarchical"),
        pytest.param(lambda crew: setattr(crew, "planning", True), "spec.planning", id="planning"),
        pytest.param(
            lambda crew: crew.tasks[0].output_schema.update({"type": "object"}),
            "spec.tasks[0].output_schema",
            id="schema",
        ),
    ],
)
def test_what_a_model_cannot_do_is_a_fault_of_the_crew(scene: Scene, alice: Caller, change: Any, field: str) -> None:
    agents = [AgentSpec(name=name, role=name.title(), goal="Help") for name in ("reader", "editor")]
    crew = scene.crew("only", agents=agents, model=OFFLINE)
    assert not alice.orchestrator.crews.ValidateCrew(ValidateCrewRequest(spec=crew)).faults
    change(crew)

    faults = alice.orchestrator.crews.ValidateCrew(ValidateCrewRequest(spec=crew)).faults
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        alice.orchestrator.apply_crew(crew)

    assert [fault.field for fault in faults] == [field]
    assert OFFLINE in faults[0].description
    assert refusal.fields == [field]
