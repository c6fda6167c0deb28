"""Tools that the host calls, as models see them and as the host is asked for them, in a real crew process."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from coxswain.models.v1.model_pb2 import Capabilities
from coxswain.orchestrator.worker.link_pb2 import CallTool, ToolAnswer
from services.orchestrator.domain.crew import AgentSpec, CrewSpec, TaskSpec, ToolSpec
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.domain.tool_sets import tool_sets
from services.orchestrator.tool_resolver import resolve_tools
from services.orchestrator.worker.host.crew_process import ForkServer
from services.orchestrator.worker.link.errors import WAITS_FOR_PERSON, TaskError
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

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "zeta": {"type": ["string", "null"], "pattern": "^a", "format": "uri"},
        "amount": {"type": "number", "minimum": 0, "default": 3},
        "to": {"$ref": "#/$defs/account"},
    },
    "required": ["amount"],
    "$defs": {"account": {"oneOf": [{"type": "string"}, {"type": "object"}]}},
}
ODD: dict[str, Any] = {
    "amount": 1e16,
    "nothing": None,
    "empty": {},
    "list": [],
    "big": 12345678901234567890,
    "self": "me",
    "config": {"deep": [{"a": [None, {}, 0.1, "1e5", "ü\u2028\U0001f600"]}]},
    "model_dump": "x",
    "Camel-Case é": True,
}


def pay(**fields: Any) -> ResolvedTool:
    made = ResolvedTool(
        name="billing/payInvoice",
        model_name="billing__payInvoice",
        description="Pays an invoice.",
        arguments_schema=SCHEMA,
        hash="h",
        config={},
        idempotent=False,
        source_id="s",
    )
    return replace(made, **fields)


def resolving(*tools: ResolvedTool) -> Callable[[CrewSpec], list[list[ResolvedTool]]]:
    """What "billing/*" stands for, beside built-in tools."""

    def resolve(spec: CrewSpec) -> list[list[ResolvedTool]]:
        return [
            [found for tool in specs for found in (tools if tool.name == "billing/*" else resolve_tools([tool], {}))]
            for specs in tool_sets(spec)
        ]

    return resolve


def crew(**task: Any) -> CrewSpec:
    agent = AgentSpec("clerk", "Clerk", "Pay", model="m", tools=(ToolSpec("billing/*"), ToolSpec("calculator")))
    return CrewSpec("crew", (agent,), (TaskSpec("settle", "Settle.", "Facts", "clerk", **task),), model="m")


def answered(request: Json) -> list[str]:
    return [text_of(message) for message in request["messages"] if message["role"] == "tool"]


class Till(ScriptedHost):
    """A host whose model calls the tool once with given arguments, and whose tool answers."""

    def __init__(self, arguments: Mapping[str, Any] | str, told: ToolAnswer | Exception, name: str = "") -> None:
        self.told = told

        def reply(request: Json) -> Json:
            if answered(request) or "Observation:" in said(request).rpartition("Settle.")[2]:
                return answer("Thought: I know.\nFinal Answer: Settled.")
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            if not request.get("tools"):
                return answer(f"Thought: pay\nAction: {name}\nAction Input: {text}")
            call = tool_call(name, {})
            call["tool_calls"][0]["arguments"] = text
            return {**call, "text": "I pay now."}

        super().__init__(reply, {"call_tool": self._call})

    def _call(self, _request: CallTool) -> ToolAnswer:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


@pytest.mark.parametrize("capabilities", [CAPABLE, PLAIN], ids=["natively", "in words"])
async def test_arguments_reach_the_host_as_the_model_wrote_them(
    fork_server: ForkServer, capabilities: Capabilities
) -> None:
    host = Till(ODD, ToolAnswer(output="paid 7"), "billing_pay_invoice")
    async with segment(fork_server, host, crew(), capabilities=capabilities, resolve=resolving(pay())) as run:
        output = await run.task(0)
    assert "Settled." in output.text
    [call] = host.calls("call_tool")
    assert json.loads(call.arguments_json) == ODD
    assert list(json.loads(call.arguments_json)) == list(ODD)
    assert "null" in call.arguments_json
    assert "paid 7" in said(host.requests[-1])
    # The host itself tells of the calls that it makes.
    assert not host.calls("tool_call_started")


async def test_models_are_told_the_schema_of_the_source_and_people_who_calls_and_why(fork_server: ForkServer) -> None:
    host = Till({"amount": 1}, ToolAnswer(output="paid"), "billing_pay_invoice")
    async with segment(fork_server, host, crew(), resolve=resolving(pay())) as run:
        await run.task(0)
    told = {tool["name"]: tool for tool in host.requests[0]["tools"]}
    assert told["billing_pay_invoice"]["description"] == "Pays an invoice."
    assert told["billing_pay_invoice"]["parameters"] == SCHEMA
    assert "calculator" in told
    [call] = host.calls("call_tool")
    assert (call.agent_role, call.agent_text) == ("Clerk", "I pay now.")


async def test_a_failure_is_words_for_the_model_and_no_second_call(fork_server: ForkServer) -> None:
    for capabilities in (CAPABLE, PLAIN):
        host = Till({"amount": 1}, ToolAnswer(error="the amount is too high"), "billing_pay_invoice")
        async with segment(fork_server, host, crew(), capabilities=capabilities, resolve=resolving(pay())) as run:
            await run.task(0)
        assert len(host.calls("call_tool")) == 1
        assert "the amount is too high" in said(host.requests[-1])


async def test_what_is_no_json_never_reaches_the_host(fork_server: ForkServer) -> None:
    host = Till('{"amount": NaN}', ToolAnswer(output="paid"), "billing_pay_invoice")
    async with segment(fork_server, host, crew(), resolve=resolving(pay())) as run:
        await run.task(0)
    assert host.calls("call_tool") == []
    assert "no NaN" in said(host.requests[-1])


async def test_a_model_that_misspells_a_tool_in_words_calls_nothing(fork_server: ForkServer) -> None:
    """CrewAI would call the tool whose name is most alike."""
    names = iter(["billing_pay_invoices", "billing_pay_invoice"])

    def reply(request: Json) -> Json:
        if "Observation:" in said(request).rpartition("Settle.")[2]:
            return answer("Thought: I know.\nFinal Answer: Settled.")
        return answer(f'Thought: pay\nAction: {next(names)}\nAction Input: {{"amount": 1}}')

    host = ScriptedHost(reply, {"call_tool": lambda _: ToolAnswer(output="paid")})
    async with segment(fork_server, host, crew(), capabilities=PLAIN, resolve=resolving(pay())) as run:
        assert "Settled." in (await run.task(0)).text
    assert len(host.calls("call_tool")) == 1
    assert 'there is no tool "billing_pay_invoices"' in said(host.requests[1])


@pytest.mark.parametrize("capabilities", [CAPABLE, PLAIN], ids=["natively", "in words"])
async def test_a_call_that_waits_for_a_person_ends_the_attempt_at_once(
    fork_server: ForkServer, capabilities: Capabilities
) -> None:
    waits = TaskError(WAITS_FOR_PERSON, "a person has to be asked first", fatal=True)
    host = Till({"amount": 1}, waits, "billing_pay_invoice")
    async with segment(fork_server, host, crew(), capabilities=capabilities, resolve=resolving(pay())) as run:
        with pytest.raises(TaskError) as ended:
            await run.task(0)
    assert ended.value.reason == WAITS_FOR_PERSON
    assert len(host.calls("call_tool")) == 1
    assert len(host.calls("complete")) == 1


async def test_calls_of_one_answer_go_on_beside_one_that_waits_for_a_person(fork_server: ForkServer) -> None:
    def reply(_request: Json) -> Json:
        calls = [tool_call("billing_pay_invoice", {"amount": n}, f"c{n}")["tool_calls"][0] for n in range(3)]
        return {"text": "", "tool_calls": calls}

    def call(request: CallTool) -> ToolAnswer:
        if json.loads(request.arguments_json)["amount"] == 1:
            raise TaskError(WAITS_FOR_PERSON, "a person has to be asked first", fatal=True)
        return ToolAnswer(output="paid")

    host = ScriptedHost(reply, {"call_tool": call})
    async with segment(fork_server, host, crew(), resolve=resolving(pay())) as run:
        with pytest.raises(TaskError) as ended:
            await run.task(0)
    assert ended.value.reason == WAITS_FOR_PERSON
    # All three are made or asked about at once, however their threads take turns.
    assert len({request.key for request in host.calls("call_tool")}) == 3
    assert len(host.calls("complete")) == 1


async def test_a_call_is_the_same_one_when_the_agent_starts_over_with_another_prompt(fork_server: ForkServer) -> None:
    """Known by the answer that asks for it, a call would be a new one: the second prompt says what was wrong."""
    verdicts = iter([{"valid": False, "feedback": "Too short."}, {"valid": True, "feedback": None}])

    def reply(request: Json) -> Json:
        if "Guardrail Agent" in said(request):
            return answer(json.dumps(next(verdicts)))
        paid = len(answered(request))
        # The same payment twice on purpose, in both runs.
        return answer("Settled.") if paid == 2 else tool_call("billing_pay_invoice", {"amount": 1}, f"c{paid}")

    paid: dict[str, int] = {}

    def call(request: CallTool) -> ToolAnswer:
        paid[request.key] = paid.get(request.key, 0) + 1
        return ToolAnswer(output="paid")

    host = ScriptedHost(reply, {"call_tool": call})
    spec = crew(guardrails=("Long.",))
    async with segment(fork_server, host, spec, resolve=resolving(pay())) as run:
        await run.task(0)
    asking = [request for request in host.requests if not answered(request) and request.get("tools")]
    assert len(asking) == 2
    assert said(asking[0]) != said(asking[1])
    assert list(paid.values()) == [2, 2], "two calls, each asked for in both runs"
    assert all(len(key) <= 128 for key in paid)


async def test_the_same_call_has_the_same_key_in_another_process(fork_server: ForkServer) -> None:
    keys = []
    for _ in range(2):
        host = Till({"b": 1, "a": {"y": 2, "x": None}}, ToolAnswer(output="paid"), "billing_pay_invoice")
        async with segment(fork_server, host, crew(), resolve=resolving(pay())) as run:
            await run.task(0)
        keys.append(host.calls("call_tool")[0].key)
    assert keys[0] == keys[1]
