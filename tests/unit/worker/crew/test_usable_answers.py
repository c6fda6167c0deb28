"""Answers without the form that was asked for: the model is told what is wrong, and the answer stands in the error."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from coxswain.models.v1.model_pb2 import Capabilities
from services.orchestrator.domain.crew import (
    AgentSpec,
    CrewSpec,
    MemorySpec,
    ModelCallSettings,
    Process,
    TaskSpec,
    ToolCalling,
    ToolSpec,
)
from services.orchestrator.worker.host.crew_process import ForkServer
from services.orchestrator.worker.link.errors import TaskError
from tests.unit.worker.crew.scripted_host import (
    CAPABLE,
    PLAIN,
    Json,
    ScriptedHost,
    answer,
    said,
    segment,
    text_of,
    tool_call,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

AGENT = AgentSpec("reader", "Reader", "Read", model="m")
CALCULATING = replace(AGENT, tools=(ToolSpec("calculator"),))
TASK = TaskSpec("read", "Read.", "Facts", "reader")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["name", "score"],
}
ADA = {"name": "Ada", "score": 3}
GOOD = json.dumps(ADA)
SORRY = "I am sorry, here is no JSON."
HIGH = '{"name": "Ada", "score": "high"}'


def crew(task: TaskSpec = TASK, agent: AgentSpec = AGENT, **fields: Any) -> CrewSpec:
    return CrewSpec("crew", (agent,), (task,), model="m", **fields)


def host_of(*answers: str) -> ScriptedHost:
    said_next: Iterator[str] = iter(answers)
    return ScriptedHost(lambda _: answer(next(said_next)))


@pytest.mark.parametrize("agent", [AGENT, CALCULATING], ids=["structured", "converted"])
@pytest.mark.parametrize(
    ("first", "told"),
    [
        (SORRY, "holds no JSON object"),
        (HIGH, "score: input should be a valid integer"),
        ('{"name": "Ada"}', "score: is missing"),
        ('Here: {"name": "Ada", "score": }', "holds no JSON object"),
    ],
)
async def test_the_next_request_holds_the_answer_and_what_is_wrong_with_it(
    fork_server: ForkServer, agent: AgentSpec, first: str, told: str
) -> None:
    host = host_of(first, GOOD)
    async with segment(fork_server, host, crew(replace(TASK, output_schema=SCHEMA), agent)) as run:
        assert (await run.task(0)).structured == {"name": "Ada", "score": 3}
    asked, again = map(said, host.requests)
    assert told in again
    assert first in again
    assert told not in asked


@pytest.mark.parametrize("agent", [AGENT, CALCULATING], ids=["structured", "converted"])
async def test_after_the_last_try_the_answer_stands_in_the_error(fork_server: ForkServer, agent: AgentSpec) -> None:
    host = host_of(*[HIGH] * 9)
    async with segment(fork_server, host, crew(replace(TASK, output_schema=SCHEMA), agent)) as run:
        with pytest.raises(TaskError, match="score: input should be a valid integer") as failed:
            await run.task(0)
    assert HIGH in failed.value.message
    assert "pydantic" not in failed.value.message
    assert (failed.value.reason, failed.value.fatal) == ("TASK_FAILED", True)
    assert len({said(request) for request in host.requests}) == len(host.requests) <= 4


async def test_an_agent_has_as_many_tries_as_its_retries(fork_server: ForkServer) -> None:
    host = host_of(*[SORRY] * 9)
    spec = crew(replace(TASK, output_schema=SCHEMA), replace(AGENT, max_retries=0))
    async with segment(fork_server, host, spec) as run:
        with pytest.raises(TaskError, match="I am sorry"):
            await run.task(0)
    assert len(host.requests) == 1


async def test_json_in_a_fence_is_no_reason_to_ask_again(fork_server: ForkServer) -> None:
    host = host_of(f"Of course!\n```json\n{GOOD}\n```\nAnything else?")
    async with segment(fork_server, host, crew(replace(TASK, output_schema=SCHEMA))) as run:
        assert (await run.task(0)).structured == {"name": "Ada", "score": 3}


async def test_properties_that_the_schema_does_not_have_are_left_out(fork_server: ForkServer) -> None:
    host = host_of(json.dumps({**json.loads(GOOD), "mood": "fine"}))
    async with segment(fork_server, host, crew(replace(TASK, output_schema=SCHEMA))) as run:
        assert (await run.task(0)).structured == {"name": "Ada", "score": 3}


def holding(part: Json) -> Json:
    """A schema with one property of a schema."""
    return {"type": "object", "properties": {"held": part}, "required": ["held"]}


@pytest.mark.parametrize("agent", [AGENT, CALCULATING], ids=["structured", "converted"])
@pytest.mark.parametrize(
    ("schema", "given", "kept"),
    [
        (holding(SCHEMA), {"held": {**ADA, "mood": 1}}, {"held": ADA}),
        (holding({"type": "array", "items": SCHEMA}), {"held": [{**ADA, "mood": 1}]}, {"held": [ADA]}),
        (holding({"anyOf": [SCHEMA, {"type": "null"}]}), {"held": {**ADA, "mood": 1}}, {"held": ADA}),
        (
            {**holding({"$ref": "#/$defs/Entry"}), "$defs": {"Entry": SCHEMA}},
            {"held": {**ADA, "mood": 1}},
            {"held": ADA},
        ),
        ({**SCHEMA, "additionalProperties": True}, {**ADA, "mood": 1}, ADA),
        (holding({"type": "object"}), {"held": {"at": {"noon": 1}}}, {"held": {"at": {"noon": 1}}}),
        ({"type": "object"}, {"mood": 1, "at": ["noon"]}, {"mood": 1, "at": ["noon"]}),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"mood": 1}, {"mood": 1}),
    ],
)
async def test_named_properties_are_kept_alone_and_objects_that_name_none_keep_all(
    fork_server: ForkServer, agent: AgentSpec, schema: Json, given: Json, kept: Json
) -> None:
    host = host_of(json.dumps(given))
    async with segment(fork_server, host, crew(replace(TASK, output_schema=schema), agent)) as run:
        assert (await run.task(0)).structured == kept
    assert len(host.requests) == 1


def listing(**rules: Any) -> Json:
    return holding({"type": "array", "items": {"type": "integer"}, **rules})


@pytest.mark.parametrize("agent", [AGENT, CALCULATING], ids=["structured", "converted"])
@pytest.mark.parametrize(
    ("schema", "wrong", "told", "right"),
    [
        (listing(minItems=2), {"held": [1]}, "held: [1] is too short (minItems: 2)", {"held": [1, 2]}),
        (listing(maxItems=1), {"held": ["1", 2]}, "(maxItems: 1)", {"held": [1]}),
        (listing(uniqueItems=True), {"held": [1, 1.0]}, "held: item 1 is there twice", {"held": [1]}),
        (listing(contains={"const": 7}), {"held": [1]}, "held: [1] does not contain items", {"held": [7]}),
        (
            holding({"type": "object", "minProperties": 1}),
            {"held": {}},
            "held: {} should be non-empty",
            {"held": {"a": 1}},
        ),
        (
            holding({"type": "array", "items": {"type": "string", "pattern": "^a"}}),
            {"held": ["b"]},
            "held[0]: ",
            {"held": ["a"]},
        ),
        ({**SCHEMA, "not": {"properties": {"score": {"const": 0}}}}, {**ADA, "score": 0}, "should not be valid", ADA),
        (
            {
                **SCHEMA,
                "if": {"properties": {"name": {"const": "Ada"}}},
                "then": {"properties": {"score": {"minimum": 3}}},
            },
            {**ADA, "score": 2},
            "score: 2 is less than",
            ADA,
        ),
        (
            {**SCHEMA, "required": [], "dependentRequired": {"name": ["score"]}},
            {"name": "Ada"},
            "'score' is a dependency",
            ADA,
        ),
        (
            {"type": "object", "patternProperties": {"^n_": {"type": "integer"}}},
            {"n_a": "one"},
            "n_a: 'one' is not of type",
            {"n_a": 1},
        ),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"mood": "fine"},
            "mood: 'fine' is not of type",
            {"mood": 1},
        ),
        (
            {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            {"a": 1, "b": 1},
            "each of",
            {"a": 1},
        ),
    ],
)
async def test_all_that_the_schema_says_holds_of_a_result(
    fork_server: ForkServer, agent: AgentSpec, schema: Json, wrong: Json, told: str, right: Json
) -> None:
    host = host_of(json.dumps(wrong), json.dumps(right))
    async with segment(fork_server, host, crew(replace(TASK, output_schema=schema), agent)) as run:
        assert (await run.task(0)).structured == right
    assert told in said(host.requests[1])
    async with segment(
        fork_server, host_of(*[json.dumps(wrong)] * 9), crew(replace(TASK, output_schema=schema), agent)
    ) as run:
        with pytest.raises(TaskError, match="not have the form that was asked for"):
            await run.task(0)


DATED = {"type": "object", "properties": {"name": {"type": "string"}, "day": {"type": "string", "format": "date"}}}


@pytest.mark.parametrize(
    ("schema", "given", "kept"),
    [
        # Models write null for what need not be there, and numbers as texts.
        (listing(minItems=1) | {"required": []}, {"held": None}, {"held": None}),
        (listing(minItems=1), {"held": ["1"]}, {"held": [1]}),
        ({**DATED, "minProperties": 2}, {"name": "Ada", "day": "1815-12-10"}, {"name": "Ada", "day": "1815-12-10"}),
        # What is left out breaks no rule, and makes up for none that is there.
        ({**SCHEMA, "additionalProperties": False}, {**ADA, "mood": 1}, ADA),
        ({**SCHEMA, "unevaluatedProperties": False}, {**ADA, "mood": 1}, ADA),
        ({**SCHEMA, "patternProperties": {"^m": {"type": "string"}}}, {**ADA, "mood": 1}, ADA),
        ({**SCHEMA, "then": {"required": ["mood"]}, "if": {}}, {**ADA, "mood": 1}, ADA),
        # A pattern that RE2 does not know is no rule.
        (holding({"type": "array", "items": {"pattern": "(?=a)"}}), {"held": ["b"]}, {"held": ["b"]}),
        # What stands beside alternatives is a part of each.
        ({**SCHEMA, "allOf": [{"if": {}, "then": {"required": ["name"]}}]}, ADA, ADA),
        (holding({**SCHEMA, "allOf": [{"not": {"required": ["mood"]}}]}), {"held": ADA}, {"held": ADA}),
        (
            holding({**SCHEMA, "anyOf": [holding({"type": "integer"})]}),
            {"held": {**ADA, "held": 1}},
            {"held": {**ADA, "held": 1}},
        ),
    ],
)
async def test_a_result_that_follows_the_schema_as_it_is_meant_is_taken(
    fork_server: ForkServer, schema: Json, given: Json, kept: Json
) -> None:
    host = host_of(json.dumps(given))
    async with segment(fork_server, host, crew(replace(TASK, output_schema=schema))) as run:
        assert (await run.task(0)).structured == kept
    assert len(host.requests) == 1


async def test_models_are_told_that_an_object_without_named_properties_holds_any(fork_server: ForkServer) -> None:
    host = host_of('{"held": {"mood": 1}}')
    async with segment(fork_server, host, crew(replace(TASK, output_schema=holding({"type": "object"})))) as run:
        await run.task(0)
    schema = host.requests[0]["response_format"]["schema"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["held"]["additionalProperties"] is True


CALL = json.dumps({"name": "calculator", "arguments": {"expression": "1 + 1"}})


@pytest.mark.parametrize(
    "written",
    [
        CALL,
        f"```json\n{CALL}\n```",
        f"Let me see.\n<tool_call>\n{CALL}\n</tool_call>",
        f"<tool_call>{CALL}",
        f"[{CALL}, {CALL}]",
        f'{{"id": "call_1", "type": "function", "function": {CALL}}}',
    ],
)
async def test_a_call_that_is_written_as_text_is_no_result(fork_server: ForkServer, written: str) -> None:
    host = host_of(written, "It is 2.")
    async with segment(fork_server, host, crew(agent=CALCULATING)) as run:
        assert (await run.task(0)).text == "It is 2."
    assert "as text, and nothing was called" in said(host.requests[-1])
    async with segment(fork_server, host_of(*[written] * 9), crew(agent=CALCULATING)) as run:
        with pytest.raises(TaskError, match="set tool_calling to TOOL_CALLING_IN_WORDS"):
            await run.task(0)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "calculator"}',
        '{"name": "Ada", "arguments": []}',
        f"Such a call is `{CALL}`.",
        '{"name": ["x"], "args": 1}',
        "[]",
        f'[{CALL}, {{"name": "Ada"}}]',
        f'{{"function": {CALL}, "area": 3}}',
        '{"function": "calculator"}',
    ],
)
async def test_results_that_look_a_little_like_calls_stay(fork_server: ForkServer, text: str) -> None:
    async with segment(fork_server, host_of(text), crew(agent=CALCULATING)) as run:
        assert (await run.task(0)).text == text


ACTION = 'Thought: I have to reckon.\nAction: calculator\nAction Input: {"expression": "6*7"}'


@pytest.mark.parametrize("capabilities", [CAPABLE, PLAIN], ids=["native", "in words"])
@pytest.mark.parametrize("written", [CALL, f"[{CALL}]", ACTION])
async def test_a_call_in_the_last_request_of_an_agent_is_no_result(
    fork_server: ForkServer, capabilities: Capabilities, written: str
) -> None:
    def reply(request: Json) -> Json:
        if not asks_for_the_end(request):
            return tool_call("calculator", {"expression": "1 + 1"}) if capabilities is CAPABLE else answer(ACTION)
        return answer("It is 2." if "no tool can be called any more" in said(request) else written)

    host, spec = ScriptedHost(reply), crew(agent=replace(CALCULATING, max_iterations=1))
    async with segment(fork_server, host, spec, capabilities=capabilities) as run:
        assert (await run.task(0)).text == "It is 2."
    assert len(host.calls("end_tool")) == 1
    stubborn = ScriptedHost(lambda request: answer(written) if asks_for_the_end(request) else reply(request))
    async with segment(fork_server, stubborn, spec, capabilities=capabilities) as run:
        with pytest.raises(TaskError, match="has reached its max_iterations; raise them"):
            await run.task(0)


def asks_for_the_end(request: Json) -> bool:
    return "you MUST give your absolute best final answer" in said(request)


@pytest.mark.parametrize("coworker", [["Reader"], {"role": "Reader"}, 7])
async def test_a_coworker_that_is_no_name_is_told_to_the_model(fork_server: ForkServer, coworker: Any) -> None:
    delegated = {"task": "Read", "context": "All", "coworker": coworker}
    call = tool_call("delegate_work_to_coworker", delegated)
    host = ScriptedHost(lambda request: answer("Done.") if request["messages"][-1]["role"] == "tool" else call)
    spec = crew(replace(TASK, agent=""), process=Process.HIERARCHICAL, manager_model="m")
    async with segment(fork_server, host, spec) as run:
        assert (await run.task(0)).text == "Done."
    assert len(host.requests) == 2, "the manager does not begin again"
    assert "Input should be a valid string" in text_of(host.requests[1]["messages"][-1])


async def test_a_judge_is_told_what_is_wrong_with_its_verdict(fork_server: ForkServer) -> None:
    verdicts = iter(["Looks fine to me.", json.dumps({"valid": True, "feedback": None})])
    host = ScriptedHost(lambda request: answer(next(verdicts) if "Guardrail Agent" in said(request) else "The result."))
    async with segment(fork_server, host, crew(replace(TASK, guardrails=("Short.",)))) as run:
        assert (await run.task(0)).text == "The result."
    assert len(host.requests) == 3, "the agent does not do its work again"
    assert "Looks fine to me." in said(host.requests[-1])


async def test_a_result_that_a_guardrail_refuses_for_good_stands_in_the_error(fork_server: ForkServer) -> None:
    refusal = json.dumps({"valid": False, "feedback": "Too short."})
    host = ScriptedHost(
        lambda request: answer(refusal if "Guardrail Agent" in said(request) else "The result as it is.")
    )
    spec = crew(replace(TASK, guardrails=("Long.",), guardrail_max_retries=1))
    async with segment(fork_server, host, spec) as run:
        with pytest.raises(TaskError, match="Too short") as failed:
            await run.task(0)
    assert "The result as it is." in failed.value.message
    again = [said(request) for request in host.requests if "Guardrail Agent" not in said(request)][1]
    assert "Too short." in again
    assert "The result as it is." in again


async def test_memory_that_cannot_be_analysed_does_not_end_the_task(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda _: answer("No JSON, whatever you ask."))
    spec = crew(memory=MemorySpec(enabled=True, analysis=True))
    async with segment(fork_server, host, spec) as run:
        assert (await run.task(0)).text == "No JSON, whatever you ask."


# ---- tools in words

FINAL = "Thought: I now know the final answer\nFinal Answer: It is 42."


def observed(request: Json) -> list[str]:
    """What the model is told that its calls in words have come to."""
    said_before = [text_of(message) for message in request["messages"] if message["role"] == "assistant"]
    return [text for text in said_before if "\nObservation:" in text]


@pytest.mark.parametrize(
    ("first", "capabilities", "settings"),
    [
        (ACTION, PLAIN, ModelCallSettings()),
        (ACTION, CAPABLE, ModelCallSettings(tool_calling=ToolCalling.IN_WORDS)),
        (f"{ACTION}\nObservation: 41\nThought: So be it.\nFinal Answer: It is 41.", PLAIN, ModelCallSettings()),
        (ACTION.replace('{"expression": "6*7"}', "{'expression': '6*7',}"), PLAIN, ModelCallSettings()),
    ],
    ids=["unable", "by choice", "makes results up", "sloppy"],
)
async def test_a_tool_is_called_in_words(
    fork_server: ForkServer, first: str, capabilities: Capabilities, settings: ModelCallSettings
) -> None:
    host = ScriptedHost(lambda request: answer(FINAL if observed(request) else first))
    async with segment(
        fork_server, host, crew(agent=CALCULATING, model_calls=settings), capabilities=capabilities
    ) as run:
        assert (await run.task(0)).text == "It is 42."
    assert "tools" not in host.requests[0]
    assert host.requests[0]["stop"] == ["\nObservation:"]
    assert len(host.calls("end_tool")) == 1
    assert "42" in observed(host.requests[-1])[0]


async def test_a_call_in_words_that_cannot_be_read_is_answered(fork_server: ForkServer) -> None:
    replies = iter(["Thought: Hm.\nAction: calculator", ACTION, FINAL])
    host = ScriptedHost(lambda _: answer(next(replies)))
    async with segment(fork_server, host, crew(agent=CALCULATING), capabilities=PLAIN) as run:
        assert (await run.task(0)).text == "It is 42."
    assert '"Action:" has to be followed by "Action Input:"' in said(host.requests[1])
    assert len(host.calls("end_tool")) == 1


async def test_a_model_that_never_gets_the_form_right_is_quoted(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda _: answer("Thought: Hm.\nAction: calculator"))
    async with segment(fork_server, host, crew(agent=CALCULATING), capabilities=PLAIN) as run:
        with pytest.raises(TaskError, match="Action: calculator"):
            await run.task(0)
    assert len(host.requests) == 3


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (ACTION.replace("calculator", "search_the_internet"), "calculator"),
        (ACTION.replace('{"expression": "6*7"}', '["oops"]'), "Action Input"),
        (ACTION.replace("6*7", "6/0"), "Error executing tool"),
    ],
    ids=["unknown tool", "no object", "failing tool"],
)
async def test_odd_calls_in_words_are_answered_and_no_tool_runs_twice(
    fork_server: ForkServer, action: str, told: str
) -> None:
    replies = iter([action, FINAL])
    host = ScriptedHost(lambda _: answer(next(replies)))
    async with segment(fork_server, host, crew(agent=CALCULATING), capabilities=PLAIN) as run:
        assert (await run.task(0)).text == "It is 42."
    assert told in said(host.requests[-1])
    assert len(host.calls("end_tool")) == ("6/0" in action)


async def test_an_answer_without_the_form_is_the_result_as_with_crewai(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda _: answer("It is 42."))
    async with segment(fork_server, host, crew(agent=CALCULATING), capabilities=PLAIN) as run:
        assert (await run.task(0)).text == "It is 42."


async def test_a_manager_delegates_in_words(fork_server: ForkServer) -> None:
    delegate = (
        'Action: Delegate work to coworker\nAction Input: {"task": "Find it.", "context": "None", "coworker": "Reader"}'
    )

    def reply(request: Json) -> Json:
        if "You are Reader" in said(request):
            return answer("Found by the reader.")
        return answer(FINAL if observed(request) else delegate)

    host = ScriptedHost(reply)
    spec = crew(replace(TASK, agent=""), process=Process.HIERARCHICAL, manager_model="m")
    async with segment(fork_server, host, spec, capabilities=PLAIN) as run:
        assert (await run.task(0)).text == "It is 42."
    assert "Found by the reader." in observed(host.requests[-1])[0]


# ---- limits and cut off answers


async def test_a_call_carries_the_limits_of_its_agent_or_crew(fork_server: ForkServer) -> None:
    host = ScriptedHost(lambda _: answer("Done."))
    spec = crew(
        agent=replace(AGENT, model_calls=ModelCallSettings(timeout=30)),
        model_calls=ModelCallSettings(timeout=60, first_token_timeout=5),
    )
    async with segment(fork_server, host, spec) as run:
        await run.task(0)
    (call,) = host.calls("complete")
    assert (call.timeout, call.first_token_timeout) == (30, 5)
