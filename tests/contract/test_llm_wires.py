"""The wires of the LLM emulator: litellm reads them, and what a real provider refuses is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Fault, Reply, ToolCall, Usage

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": WEATHER}}]
CALLS = [ToolCall(name="weather", arguments={"city": "Rome"}, signature="s1"), ToolCall(name="weather")]


class Litellm:
    """litellm in a process of its own."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("litellm_process.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            text=True,
        )

    def call(self, kind: str, **arguments: Any) -> Any:
        """Return the documents of an answer, or what went wrong."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"kind": kind, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        result = json.loads(self._process.stdout.readline())
        return result.get("documents") or result

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def litellm() -> Iterator[Litellm]:
    running = Litellm()
    yield running
    running.close()


@pytest.fixture
def llm() -> Iterator[LlmEmulator]:
    with LlmEmulator() as running:
        yield running


def target(llm: LlmEmulator, wire: str) -> dict[str, Any]:
    """What litellm needs to know to call a wire."""
    return {
        "anthropic": {"model": "anthropic/claude-sonnet-4-5", "api_base": llm.url_of("anthropic")},
        "gemini": {"model": "gemini/gemini-3-pro-preview", "api_base": f"{llm.url_of('gemini')}/v1beta"},
    }[wire] | {"api_key": "k", "messages": [{"role": "user", "content": "hello"}]}


def joined(chunks: list[Any], name: str) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get(name) or "" for delta in deltas)


def called(chunks: list[Any]) -> list[tuple[str, Any]]:
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            for piece in choice["delta"].get("tool_calls") or []:
                call = calls.setdefault(piece["index"], ["", ""])
                call[0] += piece["function"]["name"] or ""
                call[1] += piece["function"]["arguments"] or ""
    return [(name, json.loads(arguments)) for name, arguments in calls.values()]


@pytest.mark.parametrize("wire", ["anthropic", "gemini"])
def test_litellm_reads_answers_whole_and_streamed(litellm: Litellm, llm: LlmEmulator, wire: str) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=60)
    llm.on(Reply(text="one two three", usage=usage))
    (whole,) = litellm.call("complete", **target(llm, wire))
    assert whole["choices"][0]["message"]["content"] == "one two three"
    assert whole["choices"][0]["finish_reason"] == "stop"
    chunks = litellm.call("stream", stream_options={"include_usage": True}, **target(llm, wire))
    assert joined(chunks, "content") == "one two three"
    for counted in (whole["usage"], next(chunk["usage"] for chunk in chunks if chunk.get("usage"))):
        assert (counted["prompt_tokens"], counted["completion_tokens"]) == (100, 20)
        assert counted["prompt_tokens_details"]["cached_tokens"] == 60


@pytest.mark.parametrize("wire", ["anthropic", "gemini"])
def test_litellm_calls_tools_and_hands_their_results_back(litellm: Litellm, llm: LlmEmulator, wire: str) -> None:
    llm.on(Reply(text="sunny"), last_role="tool")
    llm.on(Reply(tool_calls=CALLS), offers_tool="weather")
    chunks = litellm.call("stream", tools=TOOLS, **target(llm, wire))
    assert called(chunks) == [("weather", {"city": "Rome"}), ("weather", {})]
    (whole,) = litellm.call("complete", tools=TOOLS, **target(llm, wire))
    message = whole["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "dry"} for call in message["tool_calls"]]
    asked = target(llm, wire)
    asked["messages"] += [message, *results]
    (last,) = litellm.call("complete", tools=TOOLS, **asked)
    assert last["choices"][0]["message"]["content"] == "sunny"


def test_litellm_hands_signed_thinking_back_to_anthropic(litellm: Litellm, llm: LlmEmulator) -> None:
    llm.on(Reply(text="sunny"), last_role="tool")
    llm.on(Reply(reasoning="let me see", signature="s2", tool_calls=CALLS[:1]))
    asked = target(llm, "anthropic") | {"tools": TOOLS, "reasoning_effort": "low"}
    chunks = litellm.call("stream", **asked)
    assert joined(chunks, "reasoning_content") == "let me see"
    (whole,) = litellm.call("complete", **asked)
    message = whole["choices"][0]["message"]
    assert message["thinking_blocks"][0] == {"type": "thinking", "thinking": "let me see", "signature": "s2"}
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "dry"}
    (last,) = litellm.call("complete", **asked | {"messages": [*asked["messages"], message, result]})
    assert last["choices"][0]["message"]["content"] == "sunny"
    forged = message | {"thinking_blocks": [message["thinking_blocks"][0] | {"signature": "forged"}]}
    refused = litellm.call("complete", **asked | {"messages": [*asked["messages"], forged, result]})
    assert "Invalid `signature`" in refused["message"]


@pytest.mark.parametrize(
    ("wire", "fault", "error"),
    [
        ("anthropic", Fault(status=529, message="Overloaded"), "InternalServerError"),
        ("anthropic", Fault(status=429), "RateLimitError"),
        ("anthropic", Fault(status=401), "AuthenticationError"),
        ("gemini", Fault(status=429, retry_after="6"), "RateLimitError"),
        ("gemini", Fault(status=503, message="The model is overloaded."), "InternalServerError"),
    ],
)
def test_litellm_reads_errors(litellm: Litellm, llm: LlmEmulator, wire: str, fault: Fault, error: str) -> None:
    llm.on(Reply(fault=fault))
    assert litellm.call("complete", **target(llm, wire))["error"] == error


async def post(url: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


_TALK = [{"role": "user", "content": "hello"}]
_USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]}
_RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "x"}]}
_FORCED = {"tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "any"}}
_THINK = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4000}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"temperature": 1.5}, "temperature: range: 0..1"),
        ({"seed": 3}, "seed: Extra inputs are not permitted"),
        ({"messages": [{"role": "system", "content": "x"}]}, "Input should be 'user' or 'assistant'"),
        ({"messages": [{"role": "user", "content": ""}]}, "non-empty content"),
        ({"messages": [*_TALK, _USE]}, "without `tool_result` blocks"),
        ({"messages": [*_TALK, _USE, *_TALK]}, "without `tool_result` blocks"),
        ({"messages": [*_TALK, _RESULT]}, "unexpected `tool_use_id`"),
        ({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, "String should match pattern"),
        ({"tools": [{"name": "f", "input_schema": {}}]}, "input_schema.type"),
        ({"tool_choice": {"type": "any"}}, "while providing tools"),
        (_THINK | {"max_tokens": 1000}, "must be greater than `thinking.budget_tokens`"),
        (_THINK | {"temperature": 0.5}, "may only be set to 1"),
        (_THINK | _FORCED, "Thinking may not be enabled"),
        (_THINK | {"messages": [*_TALK, _USE, _RESULT]}, "Expected `thinking`"),
    ],
)
async def test_anthropic_refuses_what_the_real_one_refuses(change: dict[str, Any], words: str) -> None:
    body: dict[str, Any] = {"model": "claude", "max_tokens": 10, "messages": _TALK} | change
    body = {name: value for name, value in body.items() if value is not None}
    async with LlmEmulator() as llm:
        headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
        status, error = await post(f"{llm.url_of('anthropic')}/v1/messages", body, headers)
    assert (status, error["type"], error["error"]["type"]) == (400, "error", "invalid_request_error")
    assert words in error["error"]["message"]


async def test_anthropic_wants_a_key_and_a_version() -> None:
    body = {"model": "claude", "max_tokens": 10, "messages": _TALK}
    async with LlmEmulator(accepted_keys=["k"]) as llm:
        url = f"{llm.url_of('anthropic')}/v1/messages"
        answers = [await post(url, body, headers) for headers in ({}, {"x-api-key": "wrong"}, {"x-api-key": "k"})]
    assert [(status, error["error"]["type"]) for status, error in answers] == [
        (401, "authentication_error"),
        (401, "authentication_error"),
        (400, "invalid_request_error"),
    ]


_CALL = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}
_SIGNED = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "s"}]}
_ANSWER = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"a": 1}}}]}
_HELLO = {"role": "user", "parts": [{"text": "hello"}]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "contents is not specified"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "Please use a valid role: user, model."),
        ({"contents": [{"role": "user", "parts": []}]}, "parts must not be empty"),
        ({"contents": [_HELLO], "max_tokens": 3}, 'Unknown name "maxTokens"'),
        ({"contents": [_HELLO], "generationConfig": {"stop": []}}, 'Unknown name "stop"'),
        ({"contents": [_HELLO, _SIGNED, _HELLO]}, "number of function response parts"),
        ({"contents": [_HELLO, _CALL, _ANSWER]}, "missing a thought_signature"),
    ],
)
async def test_gemini_refuses_what_the_real_one_refuses(body: Any, words: str) -> None:
    async with LlmEmulator() as llm:
        url = f"{llm.url_of('gemini')}/v1beta/models/gemini-3-pro-preview:generateContent"
        status, error = await post(url, body, {"x-goog-api-key": "k"})
        assert (await post(url, {"contents": [_HELLO, _SIGNED, _ANSWER]}, {"x-goog-api-key": "k"}))[0] == 200
        assert (await post(url, {"contents": [_HELLO]}, {}))[0] == 403
    assert (status, error["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert words in error["error"]["message"]


async def test_gemini_streams_a_list_unless_events_are_asked_for() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(text="one two"))
        url = f"{llm.url_of('gemini')}/v1beta/models/gemini-2.5-flash:streamGenerateContent"
        _, listed = await post(url, {"contents": [_HELLO]}, {"x-goog-api-key": "k"})
    assert [answer["candidates"][0]["content"]["parts"][0]["text"] for answer in listed] == ["one", " two", ""]
    assert listed[-1]["candidates"][0]["finishReason"] == "STOP"
