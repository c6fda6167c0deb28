"""The wires of the LLM emulator: litellm reads them, and what a real provider refuses is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
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
        "openai": {"model": "openai/gpt-4.1", "api_base": f"{llm.url}/v1"},
        "azure": {"model": "azure/my-chat", "api_base": llm.url_of("azure"), "api_version": "2025-04-01-preview"},
        "databricks": {"model": "databricks/gpt-oss", "api_base": f"{llm.url}/serving-endpoints"},
        "anthropic": {"model": "anthropic/claude-sonnet-4-5", "api_base": llm.url_of("anthropic")},
        "gemini": {"model": "gemini/gemini-3-pro-preview", "api_base": f"{llm.url_of('gemini')}/v1beta"},
        "ollama": {"model": "ollama_chat/llama", "api_base": llm.url_of("ollama")},
        "vllm": {"model": "hosted_vllm/llama", "api_base": f"{llm.url_of('vllm')}/v1"},
        "openrouter": {"model": "openrouter/vendor/chat", "api_base": f"{llm.url_of('openrouter')}/api/v1"},
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


LITELLM_WIRES = ["openai", "azure", "databricks", "anthropic", "gemini", "ollama", "vllm", "openrouter"]


@pytest.mark.parametrize("wire", LITELLM_WIRES)
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
        # Ollama does not count what its cache served.
        assert wire == "ollama" or counted["prompt_tokens_details"]["cached_tokens"] == 60


@pytest.mark.parametrize("wire", LITELLM_WIRES)
def test_litellm_calls_tools_and_hands_their_results_back(litellm: Litellm, llm: LlmEmulator, wire: str) -> None:
    llm.on(Reply(text="sunny"), last_role="tool")
    llm.on(Reply(tool_calls=CALLS), offers_tool="weather")
    if wire not in ("ollama", "databricks"):
        # litellm loses the second call's index of Ollama, and the empty arguments of Databricks.
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
        ("azure", Fault(status=400, code="content_filter"), "ContentPolicyViolationError"),
        ("openrouter", Fault(status=402), "APIError"),
        ("vllm", Fault(status=404), "NotFoundError"),
        ("ollama", Fault(status=404), "NotFoundError"),
        ("gemini", Fault(status=503, message="The model is overloaded."), "InternalServerError"),
    ],
)
def test_litellm_reads_errors(litellm: Litellm, llm: LlmEmulator, wire: str, fault: Fault, error: str) -> None:
    llm.on(Reply(fault=fault))
    assert litellm.call("complete", **target(llm, wire))["error"] == error


def client(llm: LlmEmulator, wire: str, *, key: str = "k") -> tuple[openai.AsyncOpenAI, str]:
    """The official client, and the model to ask for."""
    if wire == "azure":
        azure = openai.AsyncAzureOpenAI(
            azure_endpoint=llm.url_of(wire), api_key=key, api_version="2025-04-01-preview", max_retries=0
        )
        return azure, "my-chat"
    paths = {"databricks": "/serving-endpoints", "openrouter": "/api/v1", "gemini_openai": ""}
    base_url = llm.url_of(wire) + paths.get(wire, "/v1")
    return openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0), "gpt-4.1"


OPENAI_WIRES = ["openai", "azure", "databricks", "vllm", "ollama_openai", "openrouter", "gemini_openai"]
_ASK: Any = [{"role": "user", "content": "hello"}]
_TOOLS: Any = TOOLS


@pytest.mark.parametrize("wire", OPENAI_WIRES)
async def test_the_official_client_reads_answers_whole_and_streamed(wire: str) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=60, reasoning_tokens=7)
    async with LlmEmulator() as llm:
        llm.on(Reply(text="one two three", usage=usage, comments=True, fragment_bytes=7))
        api, model = client(llm, wire)
        whole = await api.chat.completions.create(model=model, messages=_ASK)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("one two three", "stop")
        stream = await api.chat.completions.create(
            model=model, messages=_ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three"
        for counted in (whole.usage, chunks[-1].usage):
            assert counted is not None
            assert (counted.prompt_tokens, counted.completion_tokens, counted.total_tokens) == (100, 20, 120)
            assert counted.prompt_tokens_details is not None
            assert counted.prompt_tokens_details.cached_tokens == 60
        embedded = await api.embeddings.create(model="e", input=["a", "b"], dimensions=8)
        assert [len(row.embedding) for row in embedded.data] == [8, 8]
        await api.close()


@pytest.mark.parametrize("wire", OPENAI_WIRES)
async def test_the_official_client_reads_tool_calls_and_hands_results_back(wire: str) -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(text="sunny"), last_role="tool")
        llm.on(Reply(tool_calls=CALLS), offers_tool="weather")
        api, model = client(llm, wire)
        whole = await api.chat.completions.create(model=model, messages=_ASK, tools=_TOOLS)
        message = whole.choices[0].message
        assert whole.choices[0].finish_reason == "tool_calls"
        results = [{"role": "tool", "tool_call_id": c.id, "content": "dry"} for c in message.tool_calls or ()]
        talk = [*_ASK, message.model_dump(exclude_none=True), *results]
        last = await api.chat.completions.create(model=model, messages=talk, tools=_TOOLS)
        assert last.choices[0].message.content == "sunny"
        stream = await api.chat.completions.create(model=model, messages=_ASK, tools=_TOOLS, stream=True)
        pieces = [
            piece async for chunk in stream for choice in chunk.choices for piece in choice.delta.tool_calls or ()
        ]
        await api.close()
    assert [piece.function.name for piece in pieces if piece.function and piece.function.name] == ["weather"] * 2
    # Each provider's oddity.
    indices = {"ollama_openai": [0, 0], "gemini_openai": [None, None]}.get(wire)
    assert indices is None or [piece.index for piece in pieces] == indices
    assert wire != "vllm" or {piece.id for piece in pieces} == {None}


@pytest.mark.parametrize(
    ("wire", "fault", "error"),
    [
        ("openai", Fault(status=429, retry_after="2"), openai.RateLimitError),
        ("openai", Fault(status=400, code="context_length_exceeded"), openai.BadRequestError),
        ("azure", Fault(status=400, code="content_filter"), openai.BadRequestError),
        ("azure", Fault(status=404, code="DeploymentNotFound"), openai.NotFoundError),
        ("databricks", Fault(status=403), openai.PermissionDeniedError),
        ("vllm", Fault(status=500), openai.InternalServerError),
        ("openrouter", Fault(status=402), openai.APIStatusError),
        ("ollama_openai", Fault(status=404), openai.NotFoundError),
    ],
)
async def test_the_official_client_reads_errors(wire: str, fault: Fault, error: type[Exception]) -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(fault=fault))
        api, model = client(llm, wire)
        with pytest.raises(error, match="Provider returned error" if wire == "openrouter" else None):
            await api.chat.completions.create(model=model, messages=_ASK)
        await api.close()


async def test_the_official_client_sees_errors_within_streams() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(text="one two", error_after_chunks=1, error=Fault(status=502, message="runner stopped")))
        for wire in ("openai", "openrouter"):
            api, model = client(llm, wire)
            stream = await api.chat.completions.create(model=model, messages=_ASK, stream=True)
            with pytest.raises(openai.APIError, match="runner stopped"):
                _ = [chunk async for chunk in stream]
            await api.close()


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "o3", "max_tokens": 5}, "Use 'max_completion_tokens' instead"),
        ({"model": "gpt-5", "temperature": 0.2}, "'temperature' does not support 0.2"),
        ({"model": "gpt-5-mini", "stop": ["x"]}, "'stop' is not supported"),
        ({"model": "gpt-4.1", "top_k": 4}, "Unknown parameter: 'top_k'"),
        ({"model": "gpt-4.1", "parallel_tool_calls": True}, "only allowed when 'tools' are specified"),
        (
            {
                "model": "gpt-4.1",
                "response_format": {"type": "json_schema", "json_schema": {"name": "a b!", "schema": {}}},
            },
            "does not match pattern",
        ),
    ],
)
async def test_openai_refuses_what_the_real_one_refuses(change: dict[str, Any], words: str) -> None:
    async with LlmEmulator() as llm:
        status, error = await post(f"{llm.url}/v1/chat/completions", {"messages": _TALK} | change, {})
    assert status == 400
    assert words in error["error"]["message"]


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("", {"api-key": "k"}, 404, "404"),
        ("?api-version=2024-10-21", {}, 401, "401"),
        ("?api-version=2024-06-01", {"api-key": "k"}, 400, "400"),
        ("?api-version=2024-10-21", {"Authorization": "Bearer k"}, 200, None),
    ],
)
async def test_azure_wants_a_version_and_a_key(
    query: str, headers: dict[str, str], status: int, code: str | None
) -> None:
    body = {"messages": _TALK, "stream_options": {"include_usage": True}}
    async with LlmEmulator() as llm:
        url = f"{llm.url_of('azure')}/openai/deployments/my-chat/chat/completions{query}"
        given, answer = await post(url, body, headers)
    assert (given, answer.get("error", {}).get("code")) == (status, code)


async def test_azure_begins_a_stream_with_what_it_thinks_of_the_prompt() -> None:
    async with LlmEmulator() as llm:
        api, model = client(llm, "azure")
        stream = await api.chat.completions.create(model=model, messages=_ASK, stream=True)
        first = await anext(aiter(stream))
        await api.close()
    assert first.choices == []
    assert "prompt_filter_results" in first.model_dump()


async def test_ollama_streams_lines_unless_told_not_to_and_has_no_ids() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(tool_calls=CALLS), offers_tool="weather")
        body = {"model": "m", "messages": _TALK, "tools": TOOLS}
        url = f"{llm.url_of('ollama')}/api/chat"
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
            assert answer.content_type == "application/x-ndjson"
            lines = [json.loads(line) async for line in answer.content]
        bad = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
        status, error = await post(url, body | {"messages": [*_TALK, bad]}, {})
    assert [line["message"].get("tool_calls") for line in lines] == [
        [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}],
        [{"function": {"name": "weather", "arguments": {}}}],
        None,
    ]
    assert (lines[-1]["done"], lines[-1]["done_reason"]) == (True, "stop")
    assert status == 400
    assert "cannot unmarshal string" in error["error"]


async def test_openrouter_hides_errors_in_successes_and_sends_comments() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(fault=Fault(status=429, sent_as=200, message="slow down")), contains="limit")
        llm.on(Reply(text="one", comments=True))
        url = f"{llm.url_of('openrouter')}/api/v1/chat/completions"
        key = {"Authorization": "Bearer k"}
        body = {"model": "m", "messages": [{"role": "user", "content": "limit"}]}
        status, answer = await post(url, body, key)
        assert (status, answer["error"]["code"], answer["error"]["metadata"]["raw"]) == (200, 429, "slow down")
        for talk, first in ((body["messages"], b"data: {"), (_TALK, b": OPENROUTER PROCESSING\n")):
            asked = body | {"stream": True, "messages": talk}
            async with aiohttp.ClientSession() as session, session.post(url, json=asked, headers=key) as streamed:
                assert (await streamed.content.readline()).startswith(first)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_body_comes_packed_cut_or_late_as_the_script_says(stream: bool) -> None:
    body = {"model": "m", "messages": _TALK, "stream": stream}
    async with LlmEmulator() as llm, aiohttp.ClientSession() as session:
        url = f"{llm.url}/v1/chat/completions"
        llm.on(Reply(text="a" * 100_000, gzip=True), times=1)
        async with session.post(url, json=body) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert "a" * 1000 in await answer.text()
        llm.on(Reply(text="one two", cut_after_bytes=40), times=1)
        async with session.post(url, json=body) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        llm.on(Reply(text="late", hang_after_headers=True), times=1)
        async with session.post(url, json=body) as answer:
            await llm.wait_for_calls(1, hanging=True)
            llm.release()
            assert "late" in await answer.text()
    assert [call.outcome for call in llm.calls] == ["answered", "dropped", "answered"]
