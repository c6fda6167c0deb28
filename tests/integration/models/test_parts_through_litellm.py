"""Parts of messages through litellm: what Anthropic, Gemini and OpenRouter get, and what the next turn sends."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from coxswain.models.v1 import inference_pb2 as pb
from tests.integration.models.support import Installation, refusal, serve_models, text
from tests.integration.models.turns import answer
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply, ToolCall
from tests.support.media_samples import PDF, PNG

# Each start of the helper costs seconds of CPU: one for the whole file.
# A helper starts at low priority: on a busy machine the first call waits for minutes.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]
CLAUDE = "anthropic/claude-sonnet-4-5"
GEMINI = "gemini/gemini-2.5-flash"
ROUTED = "openrouter/anthropic/claude-sonnet-4.5"
CAN = ["chat", "tools", "reasoning", "images", "documents"]
SEED = [
    {"name": name, "provider": "litellm", "upstream_model": name, "capabilities": CAN}
    for name in (CLAUDE, GEMINI, ROUTED)
]
MARK = {"type": "ephemeral"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Installation, LlmEmulator]]:
    with pytest.MonkeyPatch.context() as patch:
        async with LlmEmulator() as upstream:
            addresses = {
                "anthropic": f"{upstream.url}/anthropic",
                "gemini": f"{upstream.url}/gemini/v1beta",
                "openrouter": f"{upstream.url}/v1",
            }
            for provider, address in addresses.items():
                patch.setenv(f"{provider.upper()}_API_KEY", "key")
                patch.setenv(f"{provider.upper()}_BASE_URL", address)
            async with serve_models(
                tmp_path_factory.mktemp("parts"),
                patch,
                key="",
                seed=SEED,
                litellm_base_urls=addresses,
            ) as installation:
                yield installation, upstream


@pytest.fixture
def models(_served: tuple[Installation, LlmEmulator]) -> Installation:
    return _served[0]


@pytest.fixture
def upstream(_served: tuple[Installation, LlmEmulator]) -> LlmEmulator:
    _served[1].clear_rules()
    _served[1].clear_log()
    return _served[1]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def user(*parts: pb.ContentPart) -> pb.Message:
    return pb.Message(role=pb.MESSAGE_ROLE_USER, content=parts)


SEEN = [
    pb.ContentPart(text="Look:", cache_mark=True),
    pb.ContentPart(image=pb.Image(data=PNG)),
    pb.ContentPart(document=pb.Document(data=PDF, file_name="a.pdf"), cache_mark=True),
]


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropic_gets_files_and_marks(models: Installation, upstream: LlmEmulator, stream: bool) -> None:
    upstream.on(Reply(text="fine"))
    address = pb.ContentPart(image=pb.Image(url="https://example.com/plan.png"))
    said = await answer(models, CLAUDE, user(*SEEN, address), stream=stream)
    assert said.content[0].text == "fine"
    (message,) = upstream.calls[0].body["messages"]
    assert message["content"] == [
        {"type": "text", "text": "Look:", "cache_control": MARK},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": encoded(PNG)}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": encoded(PDF)},
            "cache_control": MARK,
        },
        {"type": "image", "source": {"type": "url", "url": "https://example.com/plan.png"}},
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropics_signed_thinking_goes_back_first(
    models: Installation, upstream: LlmEmulator, stream: bool
) -> None:
    redacted = {"type": "redacted_thinking", "data": "hidden"}
    upstream.on(
        Reply(
            reasoning="I look it up.", signature="sig==", content_blocks=[redacted], tool_calls=[ToolCall(name="look")]
        ),
        last_role="user",
    )
    upstream.on(Reply(text="done"))
    tools = [pb.ToolDefinition(name="look")]
    question = text("Where?")
    turn = await answer(models, CLAUDE, question, stream=stream, tools=tools)
    assert [part.thinking.text for part in turn.content] == ["I look it up.", ""]
    shown = pb.Message(
        role=pb.MESSAGE_ROLE_TOOL,
        tool_call_id=turn.tool_calls[0].id,
        content=[pb.ContentPart(image=pb.Image(data=PNG))],
    )
    await answer(models, CLAUDE, question, turn, shown, stream=stream, tools=tools)
    _, said, result = upstream.calls[1].body["messages"]
    assert said["content"][:2] == [{"type": "thinking", "thinking": "I look it up.", "signature": "sig=="}, redacted]
    assert said["content"][2]["type"] == "tool_use"
    source = {"type": "base64", "media_type": "image/png", "data": encoded(PNG)}
    assert result["content"][0]["content"] == [{"type": "image", "source": source}]


@pytest.mark.parametrize("stream", [False, True])
async def test_gemini_gets_files_and_no_marks(models: Installation, upstream: LlmEmulator, stream: bool) -> None:
    upstream.on(Reply(text="fine"))
    await answer(models, GEMINI, user(*SEEN), stream=stream)
    (call,) = upstream.calls
    (content,) = call.body["contents"]
    assert content["parts"][0] == {"text": "Look:"}
    inline = [part.get("inline_data") or part["inlineData"] for part in content["parts"][1:]]
    assert [(data.get("mime_type") or data["mimeType"], data["data"]) for data in inline] == [
        ("image/png", encoded(PNG)),
        ("application/pdf", encoded(PDF)),
    ]
    address = pb.ContentPart(image=pb.Image(url="https://example.com/plan.png"))
    failure = await refusal(answer(models, GEMINI, user(address), stream=stream))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(upstream.calls) == 1


FORMAT = "anthropic-claude-v1"
DETAILS: list[dict[str, Any]] = [
    {"type": "reasoning.text", "text": "I look it up.", "signature": "sig", "format": FORMAT, "index": 0},
    {"type": "reasoning.encrypted", "data": "hidden", "format": FORMAT, "index": 1},
]
PIECES: list[dict[str, Any]] = [
    {"type": "reasoning.text", "text": "I look ", "signature": None, "format": FORMAT, "index": 0},
    {"type": "reasoning.text", "text": "it up.", "format": FORMAT, "index": 0},
    {"type": "reasoning.text", "signature": "sig", "format": FORMAT, "index": 0},
    DETAILS[1],
]


def _document(kind: str, choice: dict[str, Any]) -> str:
    head = {"id": "1", "object": kind, "created": 1, "model": "m"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return json.dumps(head | {"choices": [{"index": 0} | choice], "usage": usage})


def _routed(stream: bool) -> str:
    if not stream:
        message = {"role": "assistant", "content": "so", "reasoning": "I look it up.", "reasoning_details": DETAILS}
        return _document("chat.completion", {"message": message, "finish_reason": "stop"})
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": "", "reasoning": piece.get("text"), "reasoning_details": [piece]}
        for piece in PIECES
    ]
    choices = [{"delta": delta} for delta in (*deltas, {"content": "so"})] + [{"delta": {}, "finish_reason": "stop"}]
    events = [_document("chat.completion.chunk", choice) for choice in choices]
    return "".join(f"data: {event}\n\n" for event in (*events, "[DONE]"))


@pytest.mark.parametrize("stream", [False, True])
async def test_openrouters_details_go_back_in_their_field(
    models: Installation, upstream: LlmEmulator, stream: bool
) -> None:
    upstream.on(Reply(raw_body=_routed(stream)), times=1)
    turn = await answer(models, ROUTED, text("Where?"), stream=stream)
    assert [part.thinking.text for part in turn.content] == ["I look it up.", "", ""]
    await answer(models, ROUTED, text("Where?"), turn, text("Sure?"), stream=stream)
    said = upstream.calls[1].body["messages"][1]
    assert said["reasoning_details"] == DETAILS
    assert said["content"] == "so"


async def test_a_budget_for_thoughts_goes_up_in_each_providers_form(
    models: Installation, upstream: LlmEmulator
) -> None:
    budget = pb.Sampling(thinking_budget_tokens=2048)
    asked = [user(pb.ContentPart(text="Hello"))]
    for name in (CLAUDE, GEMINI):
        completion = pb.Completion(model=name, messages=asked, sampling=budget)
        await models.inference().Complete(pb.CompleteRequest(completion=completion))
    claude, gemini = upstream.calls
    assert claude.body["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert claude.body["max_tokens"] > 2048
    assert gemini.body["generationConfig"]["thinkingConfig"]["thinkingBudget"] == 2048
    warm = pb.Sampling(thinking_budget_tokens=2048, temperature=0.3)
    completion = pb.Completion(model=CLAUDE, messages=asked, sampling=warm)
    refused = await refusal(models.inference().Complete(pb.CompleteRequest(completion=completion)))
    assert refused.fields == ["completion.sampling.temperature"]
