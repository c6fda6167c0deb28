"""Tasks in real crew processes: forked, running CrewAI, with a scripted host at the other end of their socket."""

import asyncio
import json
import os
from dataclasses import replace
from typing import Any, cast

import pytest

from coxswain.memory.v1.memory_pb2 import Namespace, RecordFilter, SearchRecordsResponse, SearchResult
from coxswain.memory.v1.record_pb2 import MEMORY_KIND_DOCUMENT, DocumentRecord, Record
from coxswain.orchestrator.worker.link_pb2 import CrewReply, HostRequest, Plan, Revision, RunTask
from services.common.grpc.json_values import from_struct
from services.orchestrator.domain.crew import (
    AgentSpec,
    CrewSpec,
    KnowledgeMemory,
    KnowledgeSpec,
    MemoryKind,
    MemorySpec,
    Process,
    TaskSpec,
    ToolSpec,
)
from services.orchestrator.domain.execution import TaskOutput
from services.orchestrator.worker.host.crew_life import Life
from services.orchestrator.worker.host.crew_process import CrewProcess, ForkServer
from services.orchestrator.worker.link.errors import TaskError
from tests.support.private_files import private_file
from tests.support.waiting import PATIENCE, longer
from tests.unit.worker.crew.scripted_host import (
    PLAIN,
    Json,
    ScriptedHost,
    answer,
    echo,
    said,
    segment,
    text_of,
    tool_call,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

READER = AgentSpec("reader", "Reader", "Read closely", "You have read everything.", model="m")
WRITER = AgentSpec("writer", "Writer", "Write well", "You have written everything.", model="m")
READ = TaskSpec("read", "Read about {topic}.", "Three facts", "reader")
WRITE = TaskSpec("write", "Write about {topic}.", "One page", "writer")


def crew(*tasks: TaskSpec, agents: tuple[AgentSpec, ...] = (READER, WRITER), **fields: Any) -> CrewSpec:
    defaults: dict[str, Any] = {"model": "m", "manager_model": "m", "planning_model": "m"}
    return CrewSpec("brief", agents, tasks, **(defaults | fields))


INPUTS = {"topic": "ships"}


async def test_a_task_gets_inputs_filled_in_and_returns_the_answer(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda _: answer("Ships float."))
    async with segment(fork_server, host, crew(READ), inputs=INPUTS) as run:
        output = await run.task(0)
    assert output == TaskOutput("Ships float.", None, "Reader")
    assert "Read about ships." in said(host.requests[0])
    assert "Three facts" in said(host.requests[0])
    assert host.calls("complete")[0].agent_role == "Reader"


async def test_braces_within_an_input_stay_as_they_are(fork_server: ForkServer) -> None:
    host = ScriptedHost()
    async with segment(fork_server, host, crew(READ), inputs={"topic": "{other} and {topic}", "other": "no"}) as run:
        await run.task(0)
    assert "Read about {other} and {topic}." in said(host.requests[0])


async def test_a_missing_input_fails_the_task_and_names_it(fork_server: ForkServer) -> None:
    async with segment(fork_server, ScriptedHost(), crew(READ), inputs={}) as run:
        with pytest.raises(TaskError, match='"topic"') as failed:
            await run.task(0)
    assert failed.value.reason == "TASK_FAILED"


async def test_material_is_told_apart_from_instructions_and_nothing_is_lost(fork_server: ForkServer) -> None:
    text = "The sea is wide and old. " * 20
    host = ScriptedHost(lambda _: answer("The sea is wide."))
    async with segment(fork_server, host, crew(READ, WRITE), inputs={"topic": text}) as run:
        await run.all()
    first, second = host.requests
    assert [part["material"] for message in first["messages"] for part in message["content"] if "material" in part] == [
        text
    ]
    materials = [
        part["material"] for message in second["messages"] for part in message["content"] if "material" in part
    ]
    assert materials == [text, "The sea is wide."]
    assert f"Write about {text}.\n" in said(second)
    assert said(second).endswith("The sea is wide.\n\nProvide your complete response:")


async def test_a_manager_delegates_and_every_call_belongs_to_the_task(fork_server: ForkServer) -> None:
    def reply(request: Json) -> Json:
        if "Crew Manager" in said(request) and request["messages"][-1]["role"] != "tool":
            return tool_call(
                "delegate_work_to_coworker", {"task": "Find facts", "context": "About ships", "coworker": "Reader"}
            )
        if "You are Reader" in said(request):
            return answer("Coworker's facts.")
        return answer("The manager's word.")

    host = ScriptedHost(reply)
    spec = crew(replace(READ, agent=""), process=Process.HIERARCHICAL)
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        output = await run.task(0)
    assert output.text == "The manager's word."
    assert [call.agent_role for call in host.calls("complete")] == ["Crew Manager", "Reader", "Crew Manager"]
    assert {request.task for _, request in host.log} == {0}
    assert text_of(host.requests[-1]["messages"][-2 if host.requests[-1]["messages"][-1]["role"] == "user" else -1])
    assert "Coworker's facts." in said(host.requests[-1])


async def test_an_agent_of_the_crew_can_be_the_manager(fork_server: ForkServer) -> None:
    chief = AgentSpec("chief", "Chief", "Lead", "You lead.", model="m", allow_delegation=True)
    host = ScriptedHost(lambda _: answer("Done."))
    spec = crew(replace(READ, agent=""), agents=(READER, chief), process=Process.HIERARCHICAL, manager_agent="chief")
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        output = await run.task(0)
    assert output.agent_role == "Chief"
    assert "You are Chief" in said(host.requests[0])
    assert {tool["name"] for tool in host.requests[0]["tools"]} >= {"delegate_work_to_coworker"}


async def test_an_agent_may_delegate_only_when_allowed(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda _: answer("Done."))
    boss = replace(READER, allow_delegation=True)
    async with segment(fork_server, host, crew(READ, WRITE, agents=(boss, WRITER)), inputs=INPUTS) as run:
        await run.all()
    offered = [{tool["name"] for tool in request.get("tools", [])} for request in host.requests]
    assert offered == [{"delegate_work_to_coworker", "ask_question_to_coworker"}, set()]


CALCULATING = replace(READER, tools=(ToolSpec("calculator", {"decimal_places": 2}),))


def calculate_once(request: Json) -> Json:
    if any(message["role"] == "tool" for message in request["messages"]):
        return answer("It is 3.33.")
    return tool_call("calculator", {"expression": "10/3"})


async def test_a_tool_runs_with_the_crews_settings_and_is_told_of(fork_server: ForkServer) -> None:
    host = ScriptedHost(calculate_once)
    async with segment(fork_server, host, crew(READ, agents=(CALCULATING,)), inputs=INPUTS) as run:
        assert (await run.task(0)).text == "It is 3.33."
    assert [tool["name"] for tool in host.requests[0]["tools"]] == ["calculator"]
    result = next(message for message in host.requests[1]["messages"] if message["role"] == "tool")
    assert text_of(result) == "3.33"
    assert result["tool_call_id"] == "call-1"
    (started,), (completed,) = host.calls("tool_call_started"), host.calls("tool_call_completed")
    assert started.tool_name == "calculator"
    assert json.loads(started.arguments_json) == {"expression": "10/3"}
    assert (completed.output, completed.call_id) == ("3.33", started.call_id)


async def test_what_a_provider_wants_back_with_a_tool_call_is_handed_back(fork_server: ForkServer) -> None:
    def reply(request: Json) -> Json:
        called = calculate_once(request)
        for call in called.get("tool_calls", ()):
            call["provider_state"] = '{"signature": "s"}'
        return called

    host = ScriptedHost(reply)
    async with segment(fork_server, host, crew(READ, agents=(CALCULATING,)), inputs=INPUTS) as run:
        await run.task(0)
    (call,) = next(message for message in host.requests[1]["messages"] if message.get("tool_calls"))["tool_calls"]
    assert call["provider_state"] == '{"signature": "s"}'


async def test_thinking_goes_back_with_the_tool_calls_it_led_to(fork_server: ForkServer) -> None:
    def reply(request: Json) -> Json:
        called = calculate_once(request)
        return called | {"thinking": [["I calculate.", "signed"], ["", "redacted"]]} if called["tool_calls"] else called

    host = ScriptedHost(reply)
    async with segment(fork_server, host, crew(READ, agents=(CALCULATING,)), inputs=INPUTS) as run:
        await run.task(0)
    called = next(message for message in host.requests[1]["messages"] if message.get("tool_calls"))
    assert called["content"] == [
        {"thinking": {"text": "I calculate.", "provider_state": "signed"}},
        {"thinking": {"provider_state": "redacted"}},
    ]


async def test_beginnings_that_crewai_repeats_are_marked_for_the_upstreams_cache(fork_server: ForkServer) -> None:
    host = ScriptedHost(calculate_once)
    async with segment(fork_server, host, crew(READ, agents=(CALCULATING,)), inputs=INPUTS) as run:
        await run.task(0)
    marked = [
        [message.content[-1].cache_mark for message in call.completion.messages if message.content]
        for call in host.calls("complete")
    ]
    # Instructions and question; what follows grows with every call.
    assert [marks[:2] for marks in marked] == [[True, True], [True, True]]
    assert not any(marked[1][2:])


async def test_a_tool_call_with_a_journaled_result_does_not_run_again(fork_server: ForkServer) -> None:
    host = ScriptedHost(calculate_once)
    spec = crew(READ, agents=(CALCULATING,))
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        await run.task(0)
    for known in host.tool_journal.values():
        known["output"] = "from the journal"
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        await run.task(0)
    assert len(host.calls("end_tool")) == 1
    assert text_of(next(message for message in host.requests[-1]["messages"] if message["role"] == "tool")) == (
        "from the journal"
    )


async def test_a_tool_call_of_unknown_outcome_ends_the_task(fork_server: ForkServer) -> None:
    def refuse(_: Json) -> Json:
        raise TaskError("TOOL_OUTCOME_UNKNOWN", "nobody knows whether it ran", fatal=True)

    host = ScriptedHost(calculate_once, {"begin_tool": refuse})
    async with segment(fork_server, host, crew(READ, agents=(CALCULATING,)), inputs=INPUTS) as run:
        with pytest.raises(TaskError, match="nobody knows") as failed:
            await run.task(0)
    assert failed.value.reason == "TOOL_OUTCOME_UNKNOWN"
    assert len(host.requests) == 1


async def test_what_a_tool_cannot_do_is_told_to_the_model(fork_server: ForkServer) -> None:
    def reply(request: Json) -> Json:
        if any(message["role"] == "tool" for message in request["messages"]):
            return answer("It cannot be done.")
        return tool_call("calculator", {"expression": "1/0"})

    host = ScriptedHost(reply)
    async with segment(fork_server, host, crew(READ, agents=(CALCULATING,)), inputs=INPUTS) as run:
        await run.task(0)
    assert "division by zero" in said(host.requests[-1])
    assert "division by zero" in host.calls("tool_call_failed")[0].message


async def test_tools_of_a_task_come_besides_those_of_its_agent(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda _: answer("Done."))
    task = replace(READ, tools=(ToolSpec("text_statistics"),))
    async with segment(fork_server, host, crew(task, agents=(CALCULATING,)), inputs=INPUTS) as run:
        await run.task(0)
    assert sorted(tool["name"] for tool in host.requests[0]["tools"]) == ["calculator", "text_statistics"]


async def test_a_model_without_tool_calls_is_asked_for_them_in_words(fork_server: ForkServer) -> None:
    def reply(request: Json) -> Json:
        if "Observation: 3.33" in said(request) or "3.33" in said(request):
            return answer("Thought: I now know the final answer\nFinal Answer: 3.33 it is")
        return answer('Thought: reckon\nAction: calculator\nAction Input: {"expression": "10/3"}')

    host = ScriptedHost(reply)
    spec = crew(READ, agents=(CALCULATING,))
    async with segment(fork_server, host, spec, inputs=INPUTS, capabilities=PLAIN) as run:
        output = await run.task(0)
    assert output.text == "3.33 it is"
    assert all("tools" not in request for request in host.requests)


async def test_a_refused_result_is_done_again_with_what_was_wrong(fork_server: ForkServer) -> None:
    verdicts = iter([{"valid": False, "feedback": "Too short."}, {"valid": True, "feedback": None}])

    def reply(request: Json) -> Json:
        if "Guardrail Agent" in said(request):
            return answer(json.dumps(next(verdicts)))
        return answer("A longer answer." if "Too short." in said(request) else "Short.")

    host = ScriptedHost(reply)
    task = replace(READ, guardrails=("It has to be about {topic} and long.",))
    async with segment(fork_server, host, crew(task), inputs=INPUTS) as run:
        output = await run.task(0)
    assert output.text == "A longer answer."
    assert any("It has to be about ships and long." in said(request) for request in host.requests)


async def test_a_result_refused_too_often_fails_the_task(fork_server: ForkServer) -> None:
    def reply(request: Json) -> Json:
        if "Guardrail Agent" in said(request):
            return answer(json.dumps({"valid": False, "feedback": "Never good enough."}))
        return answer("Short.")

    host = ScriptedHost(reply)
    task = replace(READ, guardrails=("Impossible.",), guardrail_max_retries=1)
    async with segment(fork_server, host, crew(task), inputs=INPUTS) as run:
        with pytest.raises(TaskError, match="Never good enough") as failed:
            await run.task(0)
    assert failed.value.reason == "TASK_FAILED"
    assert len([request for request in host.requests if "You are Reader" in said(request)]) == 2


SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "pages": {"type": "integer"}},
    "required": ["title", "pages"],
}


async def test_an_output_schema_is_asked_for_and_its_result_is_structured(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda _: answer(json.dumps({"title": "Ships", "pages": 3})))
    async with segment(fork_server, host, crew(replace(READ, output_schema=SCHEMA)), inputs=INPUTS) as run:
        output = await run.task(0)
    assert output.structured == {"title": "Ships", "pages": 3}
    assert json.loads(output.text) == {"title": "Ships", "pages": 3}
    asked = host.requests[0]["response_format"]
    assert set(asked["schema"]["properties"]) == {"title", "pages"}


async def test_a_result_that_breaks_its_schema_fails_the_task(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda _: answer("I would rather talk."))
    spec = crew(replace(READ, output_schema=SCHEMA), agents=(replace(READER, max_retries=0),))
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        with pytest.raises(TaskError) as failed:
            await run.task(0)
    assert failed.value.reason == "TASK_FAILED"


@pytest.mark.parametrize("data", ["Infinity", '{"a":' * 40 + "1" + "}" * 40], ids=["infinite", "nested"])
async def test_a_result_that_cannot_be_stored_fails_the_task_and_says_why(fork_server: ForkServer, data: str) -> None:
    schema = {"type": "object", "properties": {"data": {"type": "number" if data == "Infinity" else "object"}}}
    host = ScriptedHost(lambda _: answer(f'{{"data": {data}}}'))
    spec = crew(replace(READ, output_schema=schema), agents=(replace(READER, max_retries=0),))
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        with pytest.raises(TaskError, match="finite, and values nested at most") as failed:
            await run.task(0)
    assert failed.value.reason == "TASK_FAILED"


async def test_a_plan_is_one_structured_call_and_becomes_part_of_its_tasks(fork_server: ForkServer) -> None:
    plans = {"list_of_plans_per_task": [{"task_number": 2, "task": "write", "plan": " First think. Then write."}]}
    host = ScriptedHost(lambda request: answer(json.dumps(plans)) if "Planner" in said(request) else echo(request))
    async with segment(fork_server, host, crew(READ, WRITE), inputs=INPUTS) as run:
        made = (await run.process.make_plan()).additions
        assert made == {1: " First think. Then write."}
        assert host.log[0][1].task == -1
        assert "Read about ships." in said(host.requests[0])
        await run.task(1, plan=made[1])
    assert "Write about ships. First think. Then write." in said(host.requests[-1])


async def test_a_task_done_again_is_told_what_was_wrong_with_its_result(fork_server: ForkServer) -> None:
    host = ScriptedHost()
    async with segment(fork_server, host, crew(READ), inputs=INPUTS) as run:
        await run.task(0, revision=Revision(previous="Ships sink.", feedback="They float."))
    assert "They float." in said(host.requests[0])
    assert "Ships sink." in said(host.requests[0])


async def test_knowledge_is_found_by_the_tasks_words_without_a_model_call(fork_server: ForkServer) -> None:
    texts = (KnowledgeSpec("ships", "ships ships ships"), KnowledgeSpec("x", "qqqq zzzz jjjj"))
    host = ScriptedHost(lambda _: answer("Done."))
    spec = crew(READ, WRITE, agents=(replace(READER, knowledge=texts), WRITER), knowledge=texts[:1])
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        await run.all()
    assert len(host.requests) == 2
    assert all("Additional Information: ships ships ships" in said(request) for request in host.requests)
    assert not any("qqqq" in said(request) for request in host.requests)
    # Each text is embedded once, whoever asks for it.
    embedded = [text for call in host.calls("embed") for text in call.texts]
    assert sorted(embedded) == sorted(set(embedded))


def document(content: str, *agents: str, **place: Any) -> Record:
    revision = 1 if place else 0
    part = DocumentRecord(content=content, agent_ids=agents, document_revision=revision, **place)
    return Record(id=content, document=part)


async def test_knowledge_is_found_in_memories_beside_texts_by_those_who_may(fork_server: ForkServer) -> None:
    found = [
        SearchResult(record=document("Ships float.", title="Ships", section="Hulls", page=3), similarity=0.9),
        SearchResult(record=document("For readers.", "reader"), similarity=0.8),
        SearchResult(record=document("For writers.", "writer"), similarity=0.8),
        SearchResult(record=document("For both.", "writer", "reader"), similarity=0.7),
        SearchResult(record=document("Far off."), similarity=0.1),
    ]
    host = ScriptedHost(
        lambda _: answer("Done."),
        {"search_knowledge": lambda _: SearchRecordsResponse(results=found)},
    )
    chosen = KnowledgeMemory(kind=MemoryKind.DOCUMENT, document_ids=("ships.pdf",))
    documents = KnowledgeSpec("manual", memory=chosen)
    own = (KnowledgeSpec("ships", "ships ships ships"), documents)
    spec = crew(READ, WRITE, agents=(replace(READER, knowledge=own), WRITER))
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        await run.all()
    of_reader = "Information: [Ships, Hulls, page 3]\nShips float.\nFor readers.\nFor both.\nships ships ships"
    assert of_reader in said(host.requests[0])
    assert "Ships float." not in said(host.requests[1])
    (searched,) = host.calls("search_knowledge")
    assert searched.namespace == Namespace(kind=MEMORY_KIND_DOCUMENT)
    [condition] = searched.filter.conditions
    assert (condition.column, [value.text for value in condition.values]) == ("parent_document_id", ["ships.pdf"])
    assert searched.text == "Read about ships."

    host.log.clear()
    async with segment(fork_server, host, crew(WRITE, knowledge=(documents,)), inputs=INPUTS) as run:
        await run.all()
    assert "page 3]\nShips float.\nFor both." in said(host.requests[0])
    assert "For writers." not in said(host.requests[0])


@pytest.mark.parametrize("reason", ["DEPENDENCY_UNAVAILABLE", "NOT_FOUND"])
async def test_a_task_whose_memory_cannot_be_asked_fails_with_the_reason(fork_server: ForkServer, reason: str) -> None:
    def refuse(_: Any) -> None:
        raise TaskError(reason, "no memory", fatal=reason == "NOT_FOUND")

    host = ScriptedHost(handlers={"search_knowledge": refuse})
    spec = crew(READ, knowledge=(KnowledgeSpec("k", memory=KnowledgeMemory("handbook")),))
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        with pytest.raises(TaskError) as caught:
            await run.task(0)
    assert caught.value.reason == reason
    assert host.requests == []


REMEMBERING = MemorySpec(enabled=True)


async def test_memory_stores_the_result_once_and_recalls_it_without_model_calls(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda request: answer("Ships float." if "Read about" in said(request) else "A page."))
    spec = crew(READ, WRITE, memory=REMEMBERING)
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        await run.all()
        await run.task(0)  # as after a crash
    assert [(memory.unified.content, memory.unified.scope) for memory in host.memories] == [
        ("Ships float.", "/crew/brief/agent/reader"),
        ("A page.", "/crew/brief/agent/writer"),
    ]
    assert from_struct("metadata", host.memories[1].metadata) == {"execution_id": "execution-1", "task": "write"}
    assert len(host.requests) == 3
    assert "Relevant memories:" in said(host.requests[1])
    assert "Ships float." in said(host.requests[1])
    assert "execution_id" not in said(host.requests[1])
    searched = host.calls("search_records")[1]
    assert searched.text == "Write about ships."
    assert searched.filter == RecordFilter(scope_prefix="/crew/brief")


async def test_a_result_too_long_to_be_embedded_is_remembered_in_parts(fork_server: ForkServer) -> None:
    result = "\n\n".join(f"{number}. {'Ships float. ' * 400}".strip() for number in range(400))
    assert len(result) > 1 << 20, "one record could not hold it"
    host = ScriptedHost(lambda _: answer(result))
    async with segment(fork_server, host, crew(READ, memory=REMEMBERING), inputs=INPUTS) as run:
        assert (await run.task(0)).text == result
    assert "".join(memory.unified.content for memory in host.memories) == result
    count = len(host.memories)
    metadata = [from_struct("metadata", memory.metadata) for memory in host.memories]
    places = [(kept["part"], kept["parts"]) for kept in metadata]
    assert places == [(part, count) for part in range(1, count + 1)]
    assert max(len(memory.unified.content) for memory in host.memories) <= 8000
    assert len(host.calls("save_records")) == -(-count // 100)


async def test_an_attempt_leaves_nothing_of_those_before_it_in_memory(fork_server: ForkServer) -> None:
    long, short = "".join(f"Ship {number} floats. " for number in range(150_000)), "Ships sink."
    results = iter([long, short])
    host = ScriptedHost(lambda _: answer(next(results)))
    async with segment(fork_server, host, crew(READ, memory=REMEMBERING), inputs=INPUTS) as run:
        await run.task(0)
        assert len(host.memories) > 200
        searched = len(host.calls("search_records"))
        await run.task(0, attempt=2)
    assert [memory.unified.content for memory in host.memories] == [short]
    order = [name for name, _ in host.log if name in {"delete_records", "search_records"}]
    assert order.index("delete_records") == searched, "removed before anything is recalled"


async def test_a_memory_that_cannot_be_saved_fails_the_task(fork_server: ForkServer) -> None:
    def refuse(_: Json) -> Json:
        raise TaskError("EMBEDDING_MISMATCH", "another model filled this namespace")

    host = ScriptedHost(echo, {"save_records": refuse})
    async with segment(fork_server, host, crew(READ, memory=REMEMBERING), inputs=INPUTS) as run:
        with pytest.raises(TaskError, match="another model") as failed:
            await run.task(0)
    assert failed.value.reason == "EMBEDDING_MISMATCH"


async def test_memories_that_cannot_be_read_fail_the_task(fork_server: ForkServer) -> None:
    def refuse(_: Json) -> Json:
        raise TaskError("DEPENDENCY_UNAVAILABLE", "memory does not answer")

    host = ScriptedHost(echo, {"search_records": refuse})
    async with segment(fork_server, host, crew(READ, memory=REMEMBERING), inputs=INPUTS) as run:
        with pytest.raises(TaskError, match="does not answer"):
            await run.task(0)
    assert host.requests == []


async def test_an_agent_can_save_to_memory_and_search_it(fork_server: ForkServer) -> None:
    def reply(request: Json) -> Json:
        results = [message for message in request["messages"] if message["role"] == "tool"]
        if not results:
            return tool_call("save_to_memory", {"contents": ["Masts are tall.", "Sails are white."]}, "one")
        if len(results) == 1:
            return tool_call("search_memory", {"queries": ["masts"]}, "two")
        return answer("Done.")

    host = ScriptedHost(reply)
    async with segment(fork_server, host, crew(READ, memory=REMEMBERING), inputs=INPUTS) as run:
        await run.task(0)
    assert [memory.unified.content for memory in host.memories] == ["Masts are tall.", "Sails are white.", "Done."]
    assert len({memory.id for memory in host.memories}) == 3
    assert "Masts are tall." in text_of(
        next(m for m in host.requests[-1]["messages"] if m.get("tool_call_id") == "two")
    )


async def test_analysis_has_a_model_extract_what_is_stored(fork_server: ForkServer) -> None:
    def reply(request: Json) -> Json:
        name = request.get("response_format", {}).get("name", "")
        if name == "ExtractedMemories":
            return answer(json.dumps({"memories": ["Ships float on water."]}))
        if name == "MemoryAnalysis":
            analysis = {
                "suggested_scope": "/facts",
                "categories": ["ships"],
                "importance": 0.9,
                "extracted_metadata": {},
            }
            return answer(json.dumps(analysis))
        if name:
            return answer("{}")
        return answer("Ships float.")

    host = ScriptedHost(reply)
    spec = crew(READ, memory=MemorySpec(enabled=True, analysis=True))
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        await run.task(0)
    (memory,) = host.memories
    assert memory.unified.content == "Ships float on water."
    assert memory.unified.categories == ["ships"]
    assert from_struct("metadata", memory.metadata)["execution_id"] == "execution-1"
    assert len(memory.embedding) == 26


async def test_a_passing_error_is_tried_again_and_a_final_one_is_not(fork_server: ForkServer) -> None:
    attempts: list[str] = []

    def flaky(_: Json) -> Json:
        attempts.append("flaky")
        if len(attempts) < 3:
            raise TaskError("UPSTREAM_UNAVAILABLE", "the upstream failed")
        return answer("At last.")

    host = ScriptedHost(flaky)
    async with segment(fork_server, host, crew(READ), inputs=INPUTS) as run:
        assert (await run.task(0)).text == "At last."

    def final(_: Json) -> Json:
        raise TaskError("MODEL_DISABLED", "the model is switched off", fatal=True)

    host = ScriptedHost(final)
    async with segment(fork_server, host, crew(READ), inputs=INPUTS) as run:
        with pytest.raises(TaskError, match="switched off") as failed:
            await run.task(0)
    assert failed.value.reason == "MODEL_DISABLED"
    assert len(host.requests) == 1


async def test_an_agent_that_runs_out_of_time_is_stopped_in_the_middle_of_a_call(fork_server: ForkServer) -> None:
    given_up = asyncio.Event()

    async def slow(_: Json) -> Json:
        try:
            await asyncio.Event().wait()
            return {}
        except asyncio.CancelledError:
            given_up.set()
            raise

    host = ScriptedHost(handlers={"complete": slow})
    for seconds in longer(0.2):
        spec = crew(READ, agents=(replace(READER, max_execution_time=seconds),))
        async with segment(fork_server, host, spec, inputs=INPUTS) as run:
            with pytest.raises(TaskError, match="max_execution_time"):
                await run.task(0)
            # On a busy machine its time may be over before it calls.
            if host.requests:
                # While the link is open: its end cancels every call.
                await asyncio.wait_for(given_up.wait(), PATIENCE)
                break
    assert len(host.requests) == 1


async def test_tasks_run_beside_each_other_in_one_process(fork_server: ForkServer) -> None:
    both = asyncio.Barrier(2)

    async def together(_: Json) -> Json:
        await asyncio.wait_for(both.wait(), PATIENCE)
        return answer("Together.")

    host = ScriptedHost(handlers={"complete": together})
    spec = crew(replace(READ, async_execution=True), replace(WRITE, async_execution=True))
    async with segment(fork_server, host, spec, inputs=INPUTS) as run:
        outputs = await asyncio.gather(run.task(0), run.task(1))
    assert [output.agent_role for output in outputs] == ["Reader", "Writer"]


async def test_a_crew_process_holds_no_secret(fork_server: ForkServer) -> None:
    async with segment(fork_server, ScriptedHost(), crew(READ), inputs=INPUTS) as run:
        environ = private_file(run.process.pid, "environ").decode()
        names = {entry.split("=")[0] for entry in environ.split("\0")}
        assert not {name for name in names if name.startswith(("COXSWAIN", "OPENAI", "DATABRICKS"))}


async def test_a_reply_to_something_else_is_an_error() -> None:
    class Link:
        async def call(self, _: HostRequest) -> CrewReply:
            return CrewReply(make_plan=Plan())

    process = CrewProcess(Life(1), cast("Any", Link()), cast("Any", None))
    assert await process.make_plan() == Plan()
    with pytest.raises(TaskError, match="something else"):
        await process.run_task(0, RunTask())


async def test_killing_a_crew_process_ends_it_at_once(fork_server: ForkServer) -> None:
    started = asyncio.Event()

    async def hang(_: Json) -> Json:
        started.set()
        await asyncio.Event().wait()
        return {}

    host = ScriptedHost(handlers={"complete": hang})
    async with segment(fork_server, host, crew(READ), inputs=INPUTS) as run:
        task = asyncio.create_task(run.task(0))
        await asyncio.wait_for(started.wait(), PATIENCE)
        await run.process.kill()
        with pytest.raises(ConnectionError):
            await task
        with pytest.raises(ProcessLookupError):
            os.kill(run.process.pid, 0)


async def test_agents_keep_to_their_calls_per_minute(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda _: answer("Done."))
    limited = replace(READER, max_calls_per_minute=1, max_execution_time=5)
    async with segment(fork_server, host, crew(READ, READ, agents=(limited,)), inputs=INPUTS) as run:
        await run.task(0)
        # The second call would have to wait a minute, which the agent has not.
        with pytest.raises(TaskError, match="max_execution_time"):
            await run.task(1)
    assert len(host.requests) == 1
