"""What each provider's models can do through the models service: the checks behind docs/providers.md.

A check scripts the emulator in the provider's own wire, calls the service over gRPC as a client would, whole and
streamed, and asserts what the client gets and what the provider got. It knows nothing of how the service does it.
"""

import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from coxswain.models.v1 import inference_pb2 as pb
from services.common.grpc.json_values import to_struct
from tests.integration.models.support import Installation, Refusal, ask, ask_stream, refusal, text
from tests.support.llm_emulator import Call, LlmEmulator
from tests.support.llm_replies import split_tokens
from tests.support.llm_script import Fault, Reply, ToolCall, Usage
from tests.support.media_samples import PDF, PNG

KEY = "sk-marked-90b1f2"
SIGNATURE = "c2lnbmF0dXJlLW1hcms="
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = pb.ToolDefinition(name="weather", description="Tells the weather", parameters_schema=to_struct(SCHEMA))


class NotOffered(Exception):
    """The provider has no such thing; the text says what it lacks."""


@dataclass(frozen=True)
class Column:
    """A provider, and how the service reaches it."""

    title: str
    wire: str
    """The emulator's name for its interface."""
    provider: str
    """`Model.provider` in the seed."""
    upstream_model: str
    path: str = ""
    """From the wire's beginning to the base address."""

    @property
    def chat(self) -> str:
        return f"{self.wire}/chat"

    @property
    def embed(self) -> str:
        return f"{self.wire}/embed"


COLUMNS = (
    Column("OpenAI", "openai", "openai", "gpt-4.1", "/v1"),
    Column("Azure", "azure", "azure", "my-deployment"),
    Column("Databricks", "databricks", "databricks", "databricks-claude-sonnet", "/serving-endpoints"),
    Column("Ollama", "ollama_openai", "ollama", "qwen3", "/v1"),
    Column("vLLM", "vllm", "vllm", "Qwen/Qwen3-8B", "/v1"),
    Column("OpenRouter", "openrouter", "openai", "vendor/model", "/api/v1"),
    Column("Gemini (OpenAI)", "gemini_openai", "openai", "gemini-3-pro-preview"),
    Column("Anthropic", "anthropic", "litellm", "anthropic/claude-sonnet-4-5"),
    Column("Gemini", "gemini", "litellm", "gemini/gemini-3-pro-preview", "/v1beta"),
    Column("Ollama (own)", "ollama", "litellm", "ollama_chat/qwen3"),
)
_EMBEDDING_MODELS = {
    "ollama": "ollama/nomic",
    "gemini": "gemini/gemini-embedding-001",
    "openai": "text-embedding-3-small",
}


def seed(upstream: LlmEmulator) -> list[dict[str, Any]]:
    """Return a chat model and an embedding model of every column."""
    rows: list[dict[str, Any]] = []
    for column in COLUMNS:
        row = {"provider": column.provider}
        if column.provider != "litellm":
            row["base_url"] = upstream.url_of(column.wire) + column.path
        can = ["chat", "tools", "json_schema", "reasoning", "images", "documents"]
        embeds = _EMBEDDING_MODELS.get(column.wire, column.upstream_model)
        chat = {"name": column.chat, "upstream_model": column.upstream_model, "capabilities": can}
        # A limit that nobody asks for is not sent.
        rows.append({**row, **chat, "max_output_tokens": 64_000})
        rows.append({**row, "name": column.embed, "upstream_model": embeds, "capabilities": ["embeddings"]})
    return rows


def environment(upstream: LlmEmulator) -> dict[str, str]:
    """Return keys for all columns, and the addresses they belong to."""
    named = {
        "OPENAI_API_KEY": "OPENAI_BASE_URL",
        "AZURE_OPENAI_API_KEY": "AZURE_OPENAI_ENDPOINT",
        "DATABRICKS_TOKEN": "DATABRICKS_HOST",
        "OLLAMA_API_KEY": "OLLAMA_BASE_URL",
        "VLLM_API_KEY": "VLLM_BASE_URL",
        "ANTHROPIC_API_KEY": "ANTHROPIC_BASE_URL",
        "GEMINI_API_KEY": "GEMINI_BASE_URL",
        "OLLAMA_CHAT_API_KEY": "OLLAMA_CHAT_BASE_URL",
    }
    return {name: value for key, address in named.items() for name, value in ((key, KEY), (address, upstream.url))}


def litellm_base_urls(upstream: LlmEmulator) -> dict[str, str]:
    """Return where litellm finds its providers."""
    reached = [column for column in COLUMNS if column.provider == "litellm"]
    return {
        # litellm has two names for Ollama.
        name: upstream.url_of(column.wire) + column.path
        for column in reached
        for name in (column.wire, column.upstream_model.partition("/")[0])
    }


@dataclass
class Said:
    """An answer as a client puts it together."""

    text: str = ""
    reasoning: str = ""
    calls: list[pb.ToolCall] = field(default_factory=list)
    thinking: list[pb.Thinking] = field(default_factory=list)
    finish: int = 0
    usage: pb.Usage = field(default_factory=pb.Usage)
    pieces: int = 0
    """Messages of the stream that held text."""

    def as_message(self) -> pb.Message:
        parts = [pb.ContentPart(thinking=piece) for piece in self.thinking]
        parts += [pb.ContentPart(text=self.text)] if self.text else []
        return pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, content=parts, tool_calls=self.calls)


@dataclass
class Cell:
    """One provider before a service."""

    column: Column
    models: Installation
    upstream: LlmEmulator

    def script(self, reply: Reply, **when: Any) -> None:
        self.upstream.on(reply, **when)

    def fresh(self) -> None:
        self.upstream.clear_rules()
        self.upstream.clear_log()

    @property
    def sent(self) -> Call:
        """The last call the provider got."""
        return self.upstream.calls[-1]

    async def say(self, *messages: pb.Message, stream: bool, **fields: Any) -> Said:
        if not stream:
            whole = await self.models.inference().Complete(ask(self.column.chat, *messages, **fields))
            return Said(
                whole.text,
                whole.reasoning,
                list(whole.tool_calls),
                list(whole.thinking),
                whole.finish_reason,
                whole.usage,
            )
        said = Said()
        async for piece in self.models.inference().StreamComplete(ask_stream(self.column.chat, *messages, **fields)):
            match piece.WhichOneof("delta"):
                case "text":
                    said.text += piece.text
                    said.pieces += 1
                case "reasoning":
                    said.reasoning += piece.reasoning
                case "thinking":
                    said.thinking.append(piece.thinking)
                case "tool_call":
                    more = piece.tool_call
                    if more.index == len(said.calls):
                        said.calls.append(pb.ToolCall(id=more.id, name=more.name, provider_state=more.provider_state))
                    else:
                        assert not more.id
                        assert not more.name
                    said.calls[more.index].arguments_json += more.arguments_json
                case "usage":
                    said.usage = piece.usage
                case "finish":
                    said.finish = piece.finish.reason
        return said

    async def fails(self, *, stream: bool) -> Refusal:
        return await refusal(self.say(stream=stream))


Check = Callable[[Cell], Awaitable[None]]
FEATURES: dict[str, Check] = {}


def feature(title: str) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        FEATURES[title] = check
        return check

    return add


@feature("whole answers")
async def _whole(cell: Cell) -> None:
    cell.script(Reply(text="one two three"))
    said = await cell.say(stream=False)
    assert (said.text, said.finish) == ("one two three", pb.FINISH_REASON_STOP)
    # Only Anthropic has to be told a limit.
    assert cell.column.wire == "anthropic" or not re.search(
        r"max_?\w*tokens|num_predict", json.dumps(cell.sent.body), re.IGNORECASE
    )


@feature("streamed answers")
async def _streamed(cell: Cell) -> None:
    # Time between the pieces: what arrives together travels together.
    cell.script(Reply(chunks=["one ", "two ", "😀"], comments=True, fragment_bytes=11, token_delay_s=0.03))
    said = await cell.say(stream=True)
    assert (said.text, said.finish) == ("one two 😀", pb.FINISH_REASON_STOP), said
    assert said.pieces > 1, said


@feature("answers that a limit ended")
async def _length(cell: Cell) -> None:
    cell.script(Reply(text="half", finish_reason="length"))
    for stream in (False, True):
        said = await cell.say(stream=stream, sampling=pb.Sampling(max_output_tokens=7))
        assert (said.text, said.finish) == ("half", pb.FINISH_REASON_LENGTH)
        assert re.search(r'"(?:max_?\w*[tT]okens|num_predict)": 7\b', json.dumps(cell.sent.body))


async def _tools(cell: Cell, calls: list[ToolCall], *, stream: bool) -> None:
    cell.script(Reply(text="dry"), last_role="tool")
    cell.script(Reply(tool_calls=calls), offers_tool="weather")
    question = text("How is the weather?")
    said = await cell.say(question, stream=stream, tools=[TOOL])
    assert said.finish == pb.FINISH_REASON_TOOL_CALLS
    asked = [(call.name, json.loads(call.arguments_json)) for call in said.calls]
    assert asked == [(call.name, call.arguments) for call in calls]
    assert len({call.id for call in said.calls if call.id}) == len(calls)
    results = [
        pb.Message(role=pb.MESSAGE_ROLE_TOOL, tool_call_id=call.id, content=[pb.ContentPart(text="dry")])
        for call in said.calls
    ]
    last = await cell.say(question, said.as_message(), *results, stream=stream, tools=[TOOL])
    assert last.text == "dry"


_ONE = [ToolCall(name="weather", arguments={"city": "Rome"}, signature=SIGNATURE)]
_TWO = [*_ONE, ToolCall(name="weather", arguments={})]


@feature("tool calls, whole")
async def _tools_whole(cell: Cell) -> None:
    await _tools(cell, _ONE, stream=False)


@feature("tool calls, streamed")
async def _tools_streamed(cell: Cell) -> None:
    await _tools(cell, _ONE, stream=True)


@feature("several tool calls in one turn")
async def _parallel_tools(cell: Cell) -> None:
    await _tools(cell, _TWO, stream=False)
    cell.fresh()
    await _tools(cell, _TWO, stream=True)


@feature("a tool call is demanded")
async def _tool_choice(cell: Cell) -> None:
    if cell.column.wire in ("ollama_openai", "ollama"):
        raise NotOffered("lets the model decide")
    for stream in (False, True):
        # Nothing is scripted: the emulator calls a tool only because the request demands it.
        said = await cell.say(stream=stream, tools=[TOOL], tool_choice="weather")
        assert [call.name for call in said.calls] == ["weather"]


def _thought(cell: Cell, **more: Any) -> Reply:
    if cell.column.wire in ("openai", "azure"):
        raise NotOffered("shows no reasoning in chat completions")
    if cell.column.wire == "databricks":
        block = {"type": "summary_text", "text": "I think so.", "signature": SIGNATURE}
        more["content_blocks"] = [{"type": "reasoning", "summary": [block]}, {"type": "text", "text": "yes"}]
        return Reply(**more)
    return Reply(text="yes", reasoning="I think so.", signature=SIGNATURE, **more)


@feature("reasoning is shown")
async def _reasoning(cell: Cell) -> None:
    cell.script(_thought(cell))
    for stream in (False, True):
        said = await cell.say(stream=stream)
        assert (said.text, said.reasoning) == ("yes", "I think so.")


@feature("signed thinking goes back")
async def _thinking(cell: Cell) -> None:
    if cell.column.wire in ("ollama_openai", "ollama", "vllm"):
        raise NotOffered("signs no thinking")
    reply = _thought(cell, tool_calls=_ONE)
    question = text("How is the weather?")
    for stream in (False, True):
        cell.fresh()
        cell.script(Reply(text="dry"), last_role="tool")
        cell.script(reply)
        said = await cell.say(question, stream=stream, tools=[TOOL])
        result = pb.Message(
            role=pb.MESSAGE_ROLE_TOOL, tool_call_id=said.calls[0].id, content=[pb.ContentPart(text="dry")]
        )
        assert (await cell.say(question, said.as_message(), result, stream=stream, tools=[TOOL])).text == "dry"
        assert SIGNATURE in json.dumps(cell.sent.body)


async def _asks(cell: Cell, pattern: str, **fields: Any) -> None:
    cell.script(Reply(text="yes"))
    for stream in (False, True):
        assert (await cell.say(stream=stream, **fields)).text == "yes"
        body = json.dumps(cell.sent.body)
        assert re.search(pattern, body), body


@feature("one tool call at a time")
async def _one_at_a_time(cell: Cell) -> None:
    if cell.column.wire in ("gemini", "ollama"):
        raise NotOffered("has no switch for it")
    pattern = r'"parallel_tool_calls": false|"disable_parallel_tool_use": true'
    await _asks(cell, pattern, tools=[TOOL], parallel_tool_calls=False)


@feature("reasoning effort")
async def _effort(cell: Cell) -> None:
    # Anthropic, Gemini and Ollama have words, numbers or switches of their own.
    pattern = (
        r'"reasoning_effort": "low"|"budget_tokens": \d|"effort": "low"|"think": true|"thinking_?(?:Level|Budget)": '
    )
    await _asks(cell, pattern, sampling=pb.Sampling(reasoning_effort="low"))


@feature("thinking budget")
async def _budget(cell: Cell) -> None:
    if cell.column.wire not in ("databricks", "anthropic"):
        raise NotOffered(
            "is asked for an effort instead; numbers of tokens go to Claude up to 4.6 and Gemini up to 2.5"
        )
    pattern = r'"budget_tokens": 2048'
    await _asks(cell, pattern, sampling=pb.Sampling(thinking_budget_tokens=2048))


@feature("cache marks")
async def _marks(cell: Cell) -> None:
    if cell.column.wire not in ("databricks", "anthropic"):
        raise NotOffered("keeps beginnings by itself or not at all")
    cell.script(Reply(text="yes"))
    marked = pb.Message(
        role=pb.MESSAGE_ROLE_USER,
        content=[pb.ContentPart(text="A long text.", cache_mark=True), pb.ContentPart(text="?")],
    )
    for stream in (False, True):
        assert (await cell.say(marked, stream=stream)).text == "yes"
        assert "cache_control" in json.dumps(cell.sent.body)


@feature("a schema for the answer")
async def _schema(cell: Cell) -> None:
    for stream in (False, True):
        # Nothing is scripted: the emulator follows the schema that the request holds.
        wanted = pb.ResponseFormat(name="town", schema=to_struct(SCHEMA))
        said = await cell.say(stream=stream, response_format=wanted)
        assert list(json.loads(said.text)) == ["city"]
        assert said.finish == pb.FINISH_REASON_STOP


async def _file(cell: Cell, part: pb.ContentPart, data: bytes) -> None:
    cell.script(Reply(text="seen"))
    for stream in (False, True):
        message = pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(text="Look:"), part])
        assert (await cell.say(message, stream=stream)).text == "seen"
        assert base64.b64encode(data).decode() in json.dumps(cell.sent.body)


@feature("images")
async def _images(cell: Cell) -> None:
    await _file(cell, pb.ContentPart(image=pb.Image(data=PNG)), PNG)


@feature("documents")
async def _documents(cell: Cell) -> None:
    if cell.column.wire in ("ollama_openai", "ollama", "vllm", "gemini_openai"):
        raise NotOffered("takes no files in chat completions")
    await _file(cell, pb.ContentPart(document=pb.Document(data=PDF, file_name="a.pdf")), PDF)


@feature("embeddings")
async def _embeddings(cell: Cell) -> None:
    if cell.column.wire == "anthropic":
        raise NotOffered("has no embeddings")
    texts = [f"{cell.column.title} one", f"{cell.column.title} two", f"{cell.column.title} three"]
    response = await cell.models.inference().Embed(pb.EmbedRequest(model=cell.column.embed, texts=texts))
    lengths = [sum(x * x for x in row.values) for row in response.embeddings]
    assert [round(length, 3) for length in lengths] == [1, 1, 1]
    assert response.embeddings[0] != response.embeddings[1]


_USED = Usage(prompt_tokens=100, completion_tokens=20, reasoning_tokens=7, cached_tokens=60)


@feature("tokens as the provider counts them")
async def _usage(cell: Cell) -> None:
    cell.script(Reply(text="yes", usage=_USED))
    for stream in (False, True):
        usage = (await cell.say(stream=stream)).usage
        assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (100, 20, False)


@feature("tokens counted before a call")
async def _counted(cell: Cell) -> None:
    if cell.column.wire == "vllm":
        raise NotOffered("counts outside of the interface that is called")
    if cell.column.wire not in ("anthropic", "gemini"):
        raise NotOffered("has no counter")
    said = [
        text("You are terse.", role="SYSTEM"),
        text("One, two"),
        text("three", role="ASSISTANT"),
        text("and", " then?"),
    ]
    count = await cell.models.inference().CountTokens(pb.CountTokensRequest(model=cell.column.chat, messages=said))
    words = ("You are terse.", "One, two", "three", "and then?")
    assert (count.tokens, count.exact) == (sum(len(split_tokens(each)) for each in words), True)
    assert cell.sent.route == "count"


@feature("cached tokens")
async def _cached(cell: Cell) -> None:
    if cell.column.wire in ("ollama_openai", "ollama"):
        raise NotOffered("does not say what its cache served")
    cell.script(Reply(text="yes", usage=_USED))
    for stream in (False, True):
        assert (await cell.say(stream=stream)).usage.cached_input_tokens == 60


@feature("reasoning tokens")
async def _reasoning_tokens(cell: Cell) -> None:
    if cell.column.wire in ("ollama_openai", "ollama", "anthropic"):
        raise NotOffered("does not count reasoning apart")
    cell.script(Reply(text="yes", usage=_USED))
    for stream in (False, True):
        assert (await cell.say(stream=stream)).usage.reasoning_tokens == 7


_CONTEXT = {
    "openai": Fault(
        status=400,
        code="context_length_exceeded",
        message="This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    ),
    "databricks": Fault(status=400, message="prompt token count 140000 cannot exceed 131072"),
    "anthropic": Fault(status=400, message="prompt is too long: 210000 tokens > 200000 maximum"),
    "gemini": Fault(
        status=400,
        message="The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    ),
    "vllm": Fault(
        status=400,
        message="This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
    ),
    "ollama_openai": Fault(status=400, message="the request exceeds the available context size, try increasing it"),
    "openrouter": Fault(
        status=400,
        message="This endpoint's maximum context length is 32768 tokens. However, you requested about 40000 tokens.",
    ),
}
_CONTEXT |= {
    "azure": _CONTEXT["openai"],
    "gemini_openai": _CONTEXT["gemini"],
    "ollama": _CONTEXT["ollama_openai"],
}
_LIMITED = {
    "openai": Fault(status=429, message="Rate limit reached for gpt-4.1 in organization org-x.", retry_after="90"),
    "azure": Fault(
        status=429,
        message="Requests have exceeded call rate limit of your current pricing tier.",
        retry_after="90",
        retry_after_ms="90000",
    ),
    "databricks": Fault(
        status=429, code="request_limit_exceeded", message="Exceeded workspace rate limit.", retry_after="90"
    ),
    "anthropic": Fault(status=429, message="This request would exceed your rate limit.", retry_after="90"),
    "gemini": Fault(status=429, message="You exceeded your current quota. Please retry in 90s.", retry_after="90"),
    "vllm": Fault(status=429, message="Too many requests.", retry_after="90"),
    "openrouter": Fault(status=429, message="Rate limit exceeded", retry_after="90"),
}
_LIMITED |= {"gemini_openai": _LIMITED["gemini"]}
_QUOTA = {
    "openai": Fault(status=429, code="insufficient_quota", message="You exceeded your current quota."),
    "anthropic": Fault(status=400, message="Your credit balance is too low to access the Anthropic API."),
    "gemini": Fault(status=429, message="You exceeded your current quota, please check your plan and billing details."),
    "openrouter": Fault(status=402, message="Insufficient credits."),
}
_QUOTA |= {"azure": _QUOTA["openai"], "gemini_openai": _QUOTA["gemini"]}
_KEY = {
    "openai": Fault(status=401, message="Incorrect API key provided."),
    "azure": Fault(status=401, message="Access denied due to invalid subscription key or wrong API endpoint."),
    "databricks": Fault(status=403, message="Invalid access token."),
    "anthropic": Fault(status=401, message="invalid x-api-key"),
    "gemini": Fault(status=400, code="API_KEY_INVALID", message="API key not valid. Please pass a valid API key."),
    "vllm": Fault(status=401, message="Unauthorized"),
    "ollama_openai": Fault(status=401, message="unauthorized"),
    "openrouter": Fault(status=401, message="No auth credentials found"),
}
_KEY |= {"gemini_openai": _KEY["gemini"], "ollama": _KEY["ollama_openai"]}


def _own(cell: Cell, faults: Mapping[str, Fault], lacks: str) -> Fault:
    if cell.column.wire not in faults:
        raise NotOffered(lacks)
    return faults[cell.column.wire]


async def _error(cell: Cell, fault: Fault, reason: str) -> Refusal:
    cell.script(Reply(fault=fault))
    whole, streamed = await cell.fails(stream=False), await cell.fails(stream=True)
    for failure in (whole, streamed):
        assert failure.reason == reason, failure.message
        assert failure.code is not grpc.StatusCode.INTERNAL
        # The provider's own words.
        assert fault.message[:20] in failure.message
    assert whole.retry_after == streamed.retry_after
    return streamed


@feature("error: context window")
async def _error_context(cell: Cell) -> None:
    await _error(cell, _own(cell, _CONTEXT, ""), "CONTEXT_WINDOW_EXCEEDED")


@feature("error: rate limit, with its pause")
async def _error_rate(cell: Cell) -> None:
    failure = await _error(cell, _own(cell, _LIMITED, "limits no rate"), "UPSTREAM_RATE_LIMITED")
    assert failure.retry_after == 90


@feature("error: quota used up")
async def _error_quota(cell: Cell) -> None:
    fault = _own(cell, _QUOTA, "has no quota of money")
    assert (await _error(cell, fault, "UPSTREAM_QUOTA_EXHAUSTED")).retry_after is None
    assert len(cell.upstream.calls) == 2


@feature("error: credential")
async def _error_key(cell: Cell) -> None:
    await _error(cell, _own(cell, _KEY, ""), "UPSTREAM_CREDENTIAL_REJECTED")


@feature("content filter")
async def _filter(cell: Cell) -> None:
    wire = cell.column.wire
    if wire in ("ollama_openai", "ollama", "vllm"):
        raise NotOffered("filters no content")
    for stream in (False, True):
        cell.fresh()
        cell.script(Reply(text="", finish_reason="content_filter"))
        said = await cell.say(stream=stream)
        assert said.finish == pb.FINISH_REASON_CONTENT_FILTER
    refused = {
        "openai": Fault(status=400, code="invalid_prompt", message="Your prompt was flagged by our usage policy."),
        "azure": Fault(status=400, code="content_filter", message="Azure OpenAI's content management policy."),
        "openrouter": Fault(status=403, message="Your input was flagged by moderation."),
    }
    if wire in refused:
        cell.fresh()
        await _error(cell, refused[wire], "CONTENT_FILTERED")


@feature("an answer that ended with an error")
async def _failed_end(cell: Cell) -> None:
    words = {"openrouter": "error", "gemini": "MALFORMED_FUNCTION_CALL", "gemini_openai": "MALFORMED_FUNCTION_CALL"}
    if cell.column.wire not in words:
        raise NotOffered("has no such end")
    cell.script(Reply(text="", finish_reason=words[cell.column.wire]))
    for stream in (False, True):
        failure = await cell.fails(stream=stream)
        assert failure.code is grpc.StatusCode.UNAVAILABLE, failure.message


@feature("overload is waited out")
async def _overload(cell: Cell) -> None:
    status = 529 if cell.column.wire == "anthropic" else 503
    for stream in (False, True):
        cell.fresh()
        cell.script(Reply(fault=Fault(status=status, message="The model is overloaded.")), times=1)
        cell.script(Reply(text="yes"))
        assert (await cell.say(stream=stream)).text == "yes"
        assert len(cell.upstream.calls) == 2


@feature("error within a stream")
async def _error_within(cell: Cell) -> None:
    cell.script(
        Reply(chunks=["one ", "two"], error_after_chunks=1, error=Fault(status=502, message="The runner stopped"))
    )
    failure = await cell.fails(stream=True)
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"), failure.message
    assert "The runner stopped" in failure.message
    assert len(cell.upstream.calls) == 1


_HIDDEN = Fault(status=429, sent_as=200, message="Too many requests.")


@feature("error in the place of an answer")
async def _error_in_success(cell: Cell) -> None:
    if cell.column.provider == "litellm" or cell.column.wire == "ollama_openai":
        raise NotOffered("sends errors with a status of their own")
    cell.script(Reply(fault=_HIDDEN))
    assert (await cell.fails(stream=False)).reason == "UPSTREAM_RATE_LIMITED"


@feature("error in the place of a stream")
async def _error_first(cell: Cell) -> None:
    cell.script(Reply(fault=_HIDDEN))
    failure = await cell.fails(stream=True)
    # Ollama's have no code: what has none counts as an outage.
    coded = cell.column.wire not in ("ollama_openai", "ollama")
    assert failure.reason == ("UPSTREAM_RATE_LIMITED" if coded else "UPSTREAM_UNAVAILABLE"), failure.message
    assert "Too many requests." in failure.message


@feature("a stream that breaks off")
async def _cut(cell: Cell) -> None:
    cell.script(Reply(chunks=["one ", "two "], drop_after_chunks=1))
    failure = await cell.fails(stream=True)
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
    assert len(cell.upstream.calls) == 1


@feature("cancelling ends the provider's work")
async def _cancel(cell: Cell) -> None:
    for stream in (False, True):
        cell.fresh()
        cell.script(Reply(text="a b c d", hang_after_chunks=2) if stream else Reply(hang=True))
        inference, model = cell.models.inference(), cell.column.chat
        call = inference.StreamComplete(ask_stream(model)) if stream else inference.Complete(ask(model))
        if stream:
            await call.read()
        else:
            await cell.upstream.wait_for_calls(1, hanging=True)
        call.cancel()
        await cell.upstream.wait_for_calls(1, client_disconnected=True)


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    works: bool
    offered: bool = True
    why: str = ""
    """What the provider lacks, or what went wrong."""


async def examine(cell: Cell, check: Check) -> Finding:
    """Return what a check finds."""
    cell.fresh()
    try:
        await check(cell)
    except NotOffered as lacks:
        return Finding(works=False, offered=False, why=f"The provider {lacks}.")
    except (AssertionError, grpc.aio.AioRpcError, IndexError, TimeoutError, ValueError) as error:
        details = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
        return Finding(works=False, why=f"{type(error).__name__}: {details}")
    finally:
        with suppress(RuntimeError):
            cell.upstream.release()
    return Finding(works=True)


def page(findings: Mapping[tuple[str, str], Finding], reasons: Mapping[tuple[str, str], str]) -> str:
    """Return docs/providers.md: `findings` by feature and column title, `reasons` of what does not work."""
    notes: list[str] = []

    def mark(title: str, column: str) -> str:
        found = findings[title, column]
        if found.works:
            return "yes"
        note = reasons[title, column] if found.offered else found.why
        if note not in notes:
            notes.append(note)
        return f"{'no' if found.offered else '–'} [^{notes.index(note) + 1}]"

    titles = [column.title for column in COLUMNS]
    lines = [_HEAD, f"| | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
    lines += [f"| {title} | {' | '.join(mark(title, column) for column in titles)} |" for title in FEATURES]
    lines.append("")
    lines += [f"[^{number}]: {note}" for number, note in enumerate(notes, start=1)]
    return "\n".join(lines) + "\n"


_HEAD = """# What works with which provider

<!-- Written by `make providers`; a test fails when it differs from what the tests find. -->

Each cell is a test: it calls the models service over gRPC, whole and streamed where both exist, before an emulator that
speaks the provider's own interface and refuses what the real one refuses. The official `openai` client and litellm
read the same emulators. "yes" means that the test passes, "–" that the provider has no such thing, "no" that it does
not work through Coxswain; the notes say why.

Anthropic, Gemini and "Ollama (own)", Ollama's own interface, are reached through litellm, which knows others too; all
else is called directly. "Gemini (OpenAI)" is Google's own address that speaks as OpenAI does. Bedrock and Vertex AI are
reached through litellm as well and have no column: [their tests](../tests/integration/models/test_litellm_providers.py)
say what works.
"""
