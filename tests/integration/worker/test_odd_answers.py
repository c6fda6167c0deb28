"""Answers of models that no crew expects, and conversations that no model takes: real hosts and crew processes."""

from typing import Any

import pytest

from coxswain.models.v1 import inference_pb2
from coxswain.orchestrator.v1 import crew_pb2, execution_pb2
from tests.integration.worker.installation import (
    CAPABLE,
    REASONER,
    SMALL,
    UNMEASURED,
    WORDS_ONLY,
    Installation,
)
from tests.integration.worker.odd_answers import DONE, ODD, managed, reckoner, requests, turns
from tests.support.llm_script import Fault, Reply, ToolCall

S = execution_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")


WIDE = 6000
"""Characters that the window of `SMALL` and of the model of unknown window holds."""


@pytest.mark.parametrize("model", [SMALL, UNMEASURED])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=400, code="context_length_exceeded"),
        Fault(status=400, code="bad", message="This model's maximum context length is 1500 tokens."),
    ],
    ids=["code", "words"],
)
async def test_a_conversation_that_outgrows_the_window_is_summed_up(
    lone: Installation, model: str, fault: Fault
) -> None:
    lone.llm.on(Reply(fault=fault), route="chat", more_characters_than=WIDE)
    lone.llm.on(Reply(text="<summary>Many letters.</summary>"), route="chat", last_contains="x x x x")
    lone.llm.on(Reply(text=DONE), route="chat")
    spec = reckoner()
    spec.model = model
    spec.tasks[0].description = "Do it: {topic}"
    ended = await lone.finished((await lone.start(spec, inputs={"topic": "x " * 4000})).id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, DONE), ended.error
    assert "Many letters." in str(lone.llm.calls_where(route="chat")[-1].body)


@pytest.mark.parametrize("model", [SMALL, UNMEASURED])
@pytest.mark.parametrize(("results", "letters"), [(1, 4000), (8, 500)], ids=["one long result", "many results"])
async def test_results_of_tools_beyond_the_window_are_summed_up(
    lone: Installation, model: str, results: int, letters: int
) -> None:
    lone.llm.on(Reply(fault=Fault(status=400, code="context_length_exceeded")), route="chat", more_characters_than=WIDE)
    lone.llm.on(Reply(text="<summary>Many letters.</summary>"), route="chat", contains="structured summaries")
    lone.llm.on(Reply(text=DONE), route="chat", contains="Many letters.")
    lone.llm.on(Reply(text="y " * letters), route="chat", contains="Say them")
    for number in range(results):
        work = {"task": f"Say them, part {number}", "context": "None", "coworker": "Clerk"}
        ask = ToolCall(name="delegate_work_to_coworker", arguments=work)
        lone.llm.on(Reply(tool_calls=[ask]), route="chat", times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    spec = managed()
    spec.model = spec.manager_model = model
    ended = await lone.finished((await lone.start(spec)).id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, DONE), ended.error
    assert "Many letters." in str(lone.llm.calls_where(route="chat")[-1].body)


async def test_what_fits_in_no_way_fails_after_a_few_calls_and_says_what_to_shorten(lone: Installation) -> None:
    lone.llm.on(Reply(fault=Fault(status=400, code="context_length_exceeded")), route="chat")
    spec = reckoner()
    spec.model = SMALL
    ended = await lone.finished((await lone.start(spec)).id)
    assert (ended.state, ended.error.reason) == (S.EXECUTION_STATE_FAILED, "CONTEXT_WINDOW_EXCEEDED")
    assert "1500 tokens" in ended.error.message
    assert "shorten" in ended.error.message
    assert requests(lone) <= 10


@pytest.mark.parametrize("arguments", ['["oops"]', '"str"', "7", "false", "[]"])
async def test_arguments_that_are_no_object_are_told_to_the_model(lone: Installation, arguments: str) -> None:
    lone.llm.on(Reply(tool_calls=[ToolCall(name="calculator", arguments=arguments)]), route="chat", times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    ended = await lone.finished((await lone.start(reckoner())).id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, DONE), ended.error
    assert requests(lone) == 2
    messages = lone.llm.calls_where(route="chat")[-1].body["messages"]
    (called,) = [call for message in messages for call in message.get("tool_calls") or ()]
    assert called["function"]["arguments"] == arguments, "what the model wrote"
    (told,) = [message["content"] for message in messages if message["role"] == "tool"]
    assert "must be a JSON object" in told


async def test_arguments_of_the_wrong_kinds_are_told_without_a_dump(lone: Installation) -> None:
    lone.llm.on(Reply(tool_calls=[ToolCall(name="calculator", arguments='{"expression": NaN}')]), times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    assert (await lone.finished((await lone.start(reckoner())).id)).result.text == DONE
    told = lone.llm.calls[-1].body["messages"][-1]["content"]
    assert "Input should be a valid string" in told
    assert "pydantic" not in told
    assert "[type=" not in told


async def test_a_model_that_calls_a_tool_there_is_not_is_told_of_those_there_are(lone: Installation) -> None:
    call = ToolCall(name="search_the_internet", arguments={"query": "whales"})
    lone.llm.on(Reply(tool_calls=[call]), route="chat", times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    ended = await lone.finished((await lone.start(reckoner())).id)
    assert ended.result.text == DONE
    messages = lone.llm.calls_where(route="chat")[-1].body["messages"]
    (told,) = [message["content"] for message in messages if message["role"] == "tool"]
    assert told == 'there is no tool "search_the_internet"; the tools are: calculator'


@pytest.mark.parametrize(
    ("said", "reason", "words", "calls"),
    [
        ({"refusal": "I cannot help with that."}, "MODEL_REFUSED", "I cannot help with that.", 1),
        ({"text": "Well,", "finish_reason": "content_filter"}, "MODEL_REFUSED", "withheld", 1),
        ({"text": "   \n"}, "ANSWER_BLANK", "finish reason STOP", 3),
        ({"text": ""}, "ANSWER_BLANK", CAPABLE, 3),
    ],
    ids=["refused", "filtered", "blank", "empty"],
)
async def test_answers_of_no_use_end_an_execution_for_their_own_reason(
    lone: Installation, said: dict[str, Any], reason: str, words: str, calls: int
) -> None:
    lone.llm.on(Reply(**said), route="chat", times=calls)
    lone.llm.on(Reply(text=DONE), route="chat")
    failed = await lone.finished((await lone.start(reckoner())).id)
    assert (failed.state, failed.error.reason) == (S.EXECUTION_STATE_FAILED, reason), failed.result
    assert words in failed.error.message
    assert (requests(lone), failed.usage.llm_calls) == (calls, calls)
    resumed = await lone.executions().ResumeExecution(S.ResumeExecutionRequest(id=failed.id))
    assert (await lone.finished(resumed.execution.id)).result.text == DONE, "such an answer is not kept"


async def test_a_blank_answer_is_asked_for_again(lone: Installation) -> None:
    turns(lone, 1)
    lone.llm.on(Reply(text="\u200b \n"), route="chat", times=1)
    lone.llm.on(Reply(text="Half of it", finish_reason="length"), route="chat")
    execution = await lone.start(reckoner())
    events = await lone.watch(execution.id)
    ended = await lone.get(execution.id)
    assert (ended.state, ended.result.text, requests(lone)) == (S.EXECUTION_STATE_SUCCEEDED, "Half of it", 3)
    done = [event.llm_call_completed for event in events if event.HasField("llm_call_completed")]
    assert [completed.finish_reason for completed in done] == [
        inference_pb2.FINISH_REASON_TOOL_CALLS,
        inference_pb2.FINISH_REASON_STOP,
        inference_pb2.FINISH_REASON_LENGTH,
    ]


@pytest.mark.parametrize("text", [None, "What I know so far."])
async def test_tool_calls_that_nobody_offered_are_no_result(lone: Installation, text: str | None) -> None:
    call = ToolCall(name="calculator", arguments={"expression": "1 + 1"})
    lone.llm.on(Reply(text=text, tool_calls=[call]), route="chat")
    ended = await lone.finished((await lone.start(reckoner(max_iterations=2))).id)
    if text is None:
        assert ended.error.reason == "ANSWER_BLANK"
    else:
        assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, text)


async def test_a_call_in_the_last_request_of_an_agent_is_no_result(lone: Installation) -> None:
    turns(lone, 1)
    written = '{"name": "calculator", "arguments": {"expression": "1 + 1"}}'
    lone.llm.on(Reply(text=written), route="chat", contains="you MUST give your absolute best final answer", times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    ended = await lone.finished((await lone.start(reckoner(max_iterations=1))).id)
    assert (ended.state, ended.result.text, requests(lone)) == (S.EXECUTION_STATE_SUCCEEDED, DONE, 3)
    assert "no tool can be called any more" in str(lone.llm.calls_where(route="chat")[-1].body)


REFUSAL = Reply(refusal="I cannot help with that.")


def refused_where(place: str) -> tuple[crew_pb2.CrewSpec, dict[str, Any]]:
    """A crew, and which of its calls its model refuses."""
    spec = reckoner()
    if place == "tools":
        return spec, {"last_role": "tool"}
    if place == "plan":
        spec.planning = True
        return spec, {"contains": "plan"}
    if place == "guardrail":
        spec.tasks[0].guardrails.append("Be brief.")
        return spec, {"contains": "Guardrail Agent"}
    if place == "memory":
        spec.memory.enabled = spec.memory.analysis = True
        return spec, {"contains": "memor"}
    spec.process = crew_pb2.PROCESS_HIERARCHICAL
    spec.tasks[0].agent = ""
    return spec, {"contains": "Crew Manager"}


@pytest.mark.parametrize(("spec", "reply", "reason", "text"), ODD.values(), ids=ODD.keys())
async def test_odd_answers_end_in_a_result_or_for_their_own_reason(
    lone: Installation, spec: crew_pb2.CrewSpec, reply: Reply, reason: str, text: str
) -> None:
    lone.llm.on(reply, route="chat", times=None if reason else 1)
    lone.llm.on(Reply(text=DONE), route="chat")
    ended = await lone.finished((await lone.start(spec)).id)
    assert ended.error.reason == reason, ended.error.message
    assert text in (ended.error.message or ended.result.text)
    assert "pydantic" not in ended.error.message
    assert (ended.state == S.EXECUTION_STATE_SUCCEEDED) is not bool(reason)


@pytest.mark.parametrize("place", ["tools", "plan", "guardrail", "memory", "manager"])
async def test_a_refusal_ends_the_task_with_its_words_wherever_it_comes(lone: Installation, place: str) -> None:
    spec, when = refused_where(place)
    lone.llm.on(REFUSAL, route="chat", **when)
    turns(lone, 1 if place == "tools" else 0)
    lone.llm.on(Reply(text=DONE), route="chat")
    ended = await lone.finished((await lone.start(spec)).id)
    assert ended.error.reason == "MODEL_REFUSED", (ended.result, ended.error)
    assert "I cannot help with that." in ended.error.message
    assert requests(lone) <= 3


async def test_an_answer_that_was_cut_off_is_told_with_the_result_or_fails_the_task(lone: Installation) -> None:
    turns(lone, 1)
    lone.llm.on(Reply(text="Half of it", finish_reason="length"), route="chat", times=1)
    told = await lone.finished((await lone.start(reckoner())).id)
    assert (told.result.text, told.result.cut_off) == ("Half of it", True)
    turns(lone, 1)
    lone.llm.on(Reply(text="Half of it", finish_reason="length"), route="chat", times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    spec = reckoner()
    spec.tasks[0].on_cut_off = crew_pb2.ON_CUT_OFF_FAIL
    failed = await lone.finished((await lone.start(spec)).id)
    assert failed.error.reason == "ANSWER_CUT_OFF"
    assert "Half of it" in failed.error.message
    lone.llm.clear_log()
    resumed = await lone.executions().ResumeExecution(S.ResumeExecutionRequest(id=failed.id))
    ended = await lone.finished(resumed.execution.id)
    assert (ended.result.text, ended.result.cut_off, requests(lone)) == (DONE, False, 1)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (["He said ", "\ud83c", "\udf89", " done"], "He said \U0001f389 done"),
        (["Alone \udf89", " here"], "Alone \ufffd here"),
    ],
    ids=["cut in two", "alone"],
)
async def test_characters_that_utf8_cannot_hold_are_joined_or_replaced(
    lone: Installation, said: list[str], read: str
) -> None:
    lone.llm.on(Reply(chunks=said), route="chat")
    execution = await lone.start(reckoner())
    events = await lone.watch(execution.id)
    assert (await lone.get(execution.id)).result.text == read
    (completed,) = [event.llm_call_completed for event in events if event.HasField("llm_call_completed")]
    assert completed.text == read


async def test_odd_characters_in_the_arguments_of_tools_and_in_reasoning_end_nothing(lone: Installation) -> None:
    call = ToolCall(name="calculator", arguments='{"expression": "1 + 1 \\ud83c"}')
    lone.llm.on(Reply(tool_calls=[call], reasoning="Hm \ud83c."), route="chat", times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    ended = await lone.finished((await lone.start(reckoner())).id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, DONE), ended.error
    assert requests(lone) == 2


async def test_thoughts_in_a_text_are_no_part_of_results_and_prompts(lone: Installation) -> None:
    lone.llm.on(Reply(text="<think>secret {x} thoughts</think>The visible answer"), route="chat", times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    spec = reckoner()
    spec.model = REASONER
    spec.tasks.add(name="tell", description="Tell it.", expected_output="Words", agent="clerk")
    execution = await lone.start(spec)
    await lone.watch(execution.id)
    assert (await lone.tasks(execution.id))[0].output.text == "The visible answer"
    assert "secret" not in str(lone.llm.calls_where(route="chat")[-1].body)


async def test_whole_numbers_stay_whole_in_prompts_and_results(lone: Installation) -> None:
    lone.llm.on(Reply(text='{"sum": 10000000000000000, "parts": [{"n": 9007199254740992}, {"n": 2.5}]}'), route="chat")
    spec = reckoner()
    spec.tasks[0].description = "Add up {topic}"
    part: Any = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
    properties: Any = {"sum": {"type": "number"}, "parts": {"type": "array", "items": part}}
    spec.tasks[0].output_schema.update({"type": "object", "properties": properties, "required": list(properties)})
    spec.name = f"{spec.name} of whole numbers"
    created = await lone.crews().CreateCrew(crew_pb2.CreateCrewRequest(spec=spec))
    request = S.StartExecutionRequest(crew_id=created.crew.id)
    numbers: Any = [9007199254740992, {"deep": [9007199254740991]}]
    request.inputs["topic"].list_value.extend(numbers)
    started = await lone.executions().StartExecution(request)
    ended = await lone.finished(started.execution.id)
    prompt = str(lone.llm.calls_where(route="chat")[0].body)
    assert "9007199254740992" in prompt
    assert "9007199254740991" in prompt
    assert "e+" not in prompt
    assert ended.result.structured["sum"] == 10000000000000000
    assert "10000000000000000" in ended.result.text


async def test_a_model_without_tool_calls_uses_tools_in_words(lone: Installation) -> None:
    action = 'Thought: I reckon.\nAction: calculator\nAction Input: {"expression": "6*7"}'
    lone.llm.on(Reply(text=action), route="chat", times=1)
    lone.llm.on(Reply(text="Thought: I now know the final answer\nFinal Answer: It is 42."), route="chat")
    spec = reckoner()
    spec.model = WORDS_ONLY
    checked = await lone.crews().ValidateCrew(crew_pb2.ValidateCrewRequest(spec=spec))
    assert not checked.faults
    assert [warning.field for warning in checked.warnings] == ["spec.agents[0].tools"]
    execution = await lone.start(spec)
    events = await lone.watch(execution.id)
    assert (await lone.get(execution.id)).result.text == "It is 42."
    assert await lone.journaled_tools(execution.id) == 1
    assert [e.tool_call_completed.output for e in events if e.HasField("tool_call_completed")] == ["42"]
    first, last = (call.body for call in lone.llm.calls_where(route="chat"))
    assert first["stop"] == ["\nObservation:"]
    assert "tools" not in first
    assert "Observation: 42" in str(last["messages"])
    spec.model_calls.tool_calling = crew_pb2.TOOL_CALLING_NATIVE
    refused = await lone.crews().ValidateCrew(crew_pb2.ValidateCrewRequest(spec=spec))
    assert [fault.field for fault in refused.faults] == ["spec.agents[0].tools"]
